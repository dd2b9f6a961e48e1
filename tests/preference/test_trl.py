"""One batch of pairs against TRL's DPOTrainer, which tokenises, masks and pads the same pairs itself."""

from functools import cache
from itertools import product

import pytest
import torch
from small_preference import prefer_params
from small_training import CPU, FLOAT32

from instruct.core.pairs import Pair
from instruct.model.checkpoint import load_checkpoint, random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.preference.encode import encode_pair
from instruct.preference.loss import PairLoss, log_probs, preferring
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer

PAIRS = [
    Pair(id="a", instruction="Name the capital.", input="France", output="Paris", rejected="It is Lyon, I think."),
    Pair(id="b", instruction="Spell it backwards.", input="stop", output="p, o, t, s", rejected="p, o, t"),
    Pair(id="c", instruction="Write a poem.", input="", output="Roses are red,\n\nviolets blue.", rejected="No."),
]
BETA = 0.4
SHAPES = {
    "gpt2": GPT2Config(n_positions=256, n_embd=16, n_layer=2, n_head=2),
    "llama": LlamaConfig(
        vocab_size=50257, max_position_embeddings=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=50256,
    ),
}  # fmt: skip
LOSSES = {  # names, weights, label smoothing
    "sigmoid": (["sigmoid"], [1.0], 0.0),
    "ipo": (["ipo"], [1.0], 0.0),
    "sigmoid_norm": (["sigmoid_norm"], [1.0], 0.0),
    "with SFT": (["sigmoid", "sft"], [1.0, 0.7], 0.0),
    "smoothed": (["aot"], [1.0], 0.2),
}
# These equal ours over one pair only. TRL's sft is the mean over all tokens of a batch, ours over those of each answer,
# then over pairs. TRL's aot sorts the pairs of a batch; over one it is the conservative loss.
SINGLE = ("with SFT", "smoothed")
OURS = {
    "sigmoid": {},
    "ipo": {"loss": "ipo"},
    "sigmoid_norm": {"loss": "sigmoid_norm"},
    "with SFT": {"sft_weight": 0.7},
    "smoothed": {"label_smoothing": 0.2},
}


@pytest.fixture(scope="module")
def checkpoints_of(tmp_path_factory):
    """Reference and policy of a family, which differ."""
    return cache(lambda family: make_checkpoints(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="module")
def trainer_of(checkpoints_of, tmp_path_factory):
    """TRL's trainer for all pairs, made once for all losses of a family and a template."""
    return cache(
        lambda family, template: make_trainer(checkpoints_of(family), tmp_path_factory.mktemp("trl"), template)
    )


def make_checkpoints(family, folder):
    folders = []
    for name, seed in (("reference", 3), ("policy", 4)):
        folders.append(folder / name)
        model = random_model(SHAPES[family], seed=seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 3
        save_checkpoint(model, gpt2_tokenizer(), folders[-1])
    return folders


def make_trainer(checkpoints, folder, template):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = []
    for pair in PAIRS:
        prompt = TEMPLATES[template].render(pair.instruction, pair.input)
        rows.append({"prompt": prompt, "chosen": pair.output, "rejected": pair.rejected})
    reference, policy = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in checkpoints)
    return DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(
            output_dir=str(folder), per_device_train_batch_size=len(PAIRS), beta=BETA, max_length=None,
            report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(checkpoints[1]),
    )  # fmt: skip


@cache
def loaded(folder):
    """A large vocabulary takes a second to read."""
    return load_checkpoint(folder, CPU)


def ours(checkpoints, template, pairs, **settings):
    """The mean loss, what is told beside it, and the model with its gradients."""
    (reference, tokenizer), (model, _) = map(loaded, checkpoints)
    model.zero_grad()
    params = prefer_params(beta=BETA, **settings)
    batch = preferring(params, FLOAT32, tokenizer.eos_id).to_batch(
        [encode_pair(one, TEMPLATES[template], tokenizer) for one in pairs]
    )
    with torch.no_grad():
        batch.reference.copy_(log_probs(reference, batch))
    module = PairLoss(model, params)
    loss = module(batch) / len(pairs)
    loss.backward()
    return float(loss.detach()), module.take_measures(list), model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "loss"), [*product(["gpt2"], LOSSES), pytest.param("llama", "sigmoid", marks=pytest.mark.slow)]
)
def test_loss_rewards_and_gradients_equal_trl(checkpoints_of, trainer_of, family, loss):
    checkpoints, trainer = checkpoints_of(family), trainer_of(family, "alpaca")
    pairs = PAIRS[:1] if loss in SINGLE else PAIRS
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    trainer.loss_types, trainer.loss_weights, trainer.label_smoothing = LOSSES[loss]
    trainer.model.zero_grad()
    theirs = trainer.compute_loss(trainer.model.eval(), batch)
    theirs.backward()
    found, told, model = ours(checkpoints, "alpaca", pairs, **OURS[loss])
    assert found == pytest.approx(float(theirs.detach()), rel=1e-5)
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    if loss in ("sigmoid", "smoothed", "with SFT"):  # theirs are of sums in every loss
        assert told["reward_chosen"] == pytest.approx(logged["rewards/chosen"], rel=1e-4)
        assert told["reward_rejected"] == pytest.approx(logged["rewards/rejected"], rel=1e-4)
        assert told["margin"] == pytest.approx(logged["rewards/margins"], rel=1e-3)
        assert told["accuracy"] == pytest.approx(logged["rewards/accuracies"])
    assert told["chosen_log_prob"] * told["chosen_tokens"] == pytest.approx(logged["logps/chosen"], rel=1e-5)
    assert told["rejected_log_prob"] * told["rejected_tokens"] == pytest.approx(logged["logps/rejected"], rel=1e-5)
    gradients = {name: weight.grad for name, weight in trainer.model.named_parameters()}
    compared = 0
    for name, weight in model.named_parameters():
        gradient = weight.grad.t() if name.endswith(model.transposed) else weight.grad
        torch.testing.assert_close(gradient, gradients[model.prefix + name], rtol=1e-3, atol=1e-5, msg=name)
        compared += 1
    assert compared == len(gradients)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "alpaca"])
def test_loss_of_other_templates_equals_trl(checkpoints_of, trainer_of, template):
    checkpoints, trainer = checkpoints_of("gpt2"), trainer_of("gpt2", template)
    (batch,) = trainer.get_train_dataloader()
    with torch.no_grad():
        theirs = float(trainer.compute_loss(trainer.model.eval(), batch))
    for batching in ("packed", "padded"):
        found, _, _ = ours(checkpoints, template, PAIRS, batching=batching)
        assert found == pytest.approx(theirs, rel=1e-5)
