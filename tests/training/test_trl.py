"""One step's loss against TRL's SFTTrainer, which tokenises, masks and pads the same records itself."""

import re
from dataclasses import replace

import pytest
from small_training import CPU, FLOAT32, loss_and_gradients, train_params

from instruct.core.records import Example, Turn
from instruct.model.checkpoint import load_checkpoint, random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.text.jinja import jinja_template
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import gpt2_tokenizer
from instruct.training.encode import encode_example
from instruct.training.loop import batch_maker

RECORDS = [
    Example(id="a", instruction="Name the capital.", input="France", output="Paris"),
    Example(id="b", instruction="Spell it backwards, letter by letter.", input="stop", output="p, o, t, s"),
    Example(id="c", instruction="Write a poem.", input="", output="Roses are red,\nviolets are blue.\n\nSo it goes."),
    Example(id="d", instruction="Say 1.", input="", output="1"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "gpt2"
    config = GPT2Config(n_positions=256, n_embd=16, n_layer=2, n_head=2)
    save_checkpoint(model := random_model(config, seed=3), gpt2_tokenizer(), folder, model.state_dict())
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_and_tokens_of_a_step_equal_trl(checkpoint, tmp_path, template):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    render = TEMPLATES[template].render
    rows = [{"prompt": render(one.instruction, one.input), "completion": one.output} for one in RECORDS]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint),
        args=SFTConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=len(RECORDS), max_length=None, report_to="none",
            completion_only_loss=True, use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
    )  # fmt: skip
    (batch,) = trainer.get_train_dataloader()
    theirs = float(trainer.compute_loss(trainer.model.eval(), batch).detach())

    model, tokenizer = load_checkpoint(checkpoint, CPU)
    examples = [encode_example(one, TEMPLATES[template], tokenizer) for one in RECORDS]
    assert sorted(list(one.ids) for one in examples) == sorted(trainer.train_dataset["input_ids"])
    for batching in ("packed", "padded"):
        to_batch = batch_maker(train_params(batching=batching), FLOAT32, tokenizer.eos_id)
        ours, _ = loss_and_gradients(model, to_batch(examples))
        assert ours == pytest.approx(theirs, rel=1e-5), batching


CHATS = [
    replace(RECORDS[1], history=(Turn("Hi", "", "Hello."), Turn("Who are you?", "", "A model."))),
    replace(RECORDS[3], history=(Turn("Count.", "", "1, 2,\n3"),), system="Be brief."),
    RECORDS[0],
]
# What TRL wants around an answer, to know that it is one.
ANSWER = re.compile(r'\{\{- ("(?:[^"\\]|\\.)*") \+ message\["content"\] \+ "(<\|endoftext\|>)((?:\\n)*)" \}\}')
MARKED = r'{{- \1 }}{% generation %}{{- message["content"] + "\2" }}{% endgeneration %}{{- "\3" }}'


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", TEMPLATES)
def test_loss_of_chats_equals_that_of_trl_on_assistants_only(checkpoint, tmp_path, template):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load_checkpoint(checkpoint, CPU)
    chosen, reader = TEMPLATES[template], AutoTokenizer.from_pretrained(checkpoint)
    reader.chat_template, marked = ANSWER.subn(MARKED, jinja_template(chosen, tokenizer))
    assert marked == 1
    rows = []
    for one in CHATS:
        messages = [{"role": "system", "content": one.system}] if one.system else []
        for turn in one.turns:
            asked = turn.instruction + (chosen.before_input + turn.input if turn.input else "")
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": turn.output}]
        rows.append({"messages": messages})
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint),
        args=SFTConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=len(rows), max_length=None, report_to="none",
            assistant_only_loss=True, use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=reader,
    )  # fmt: skip
    (batch,) = trainer.get_train_dataloader()
    theirs = float(trainer.compute_loss(trainer.model.eval(), batch).detach())
    examples = [encode_example(one, chosen, tokenizer) for one in CHATS]
    assert int((batch["labels"] != -100).sum()) == sum(one.response_tokens for one in examples)
    to_batch = batch_maker(train_params(batching="packed"), FLOAT32, tokenizer.eos_id)
    ours, _ = loss_and_gradients(model, to_batch(examples))
    assert ours == pytest.approx(theirs, rel=1e-5)
