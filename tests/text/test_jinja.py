"""The chat templates that checkpoints carry, in transformers: the same tokens as ours, and the same answers."""

import json
import subprocess
import sys
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from instruct.core.records import Example, Turn
from instruct.core.runtime import Runtime
from instruct.generation.decode import generate
from instruct.generation.settings import GenerateParams
from instruct.model.checkpoint import load_checkpoint, random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.text.encoding import encode_pieces, encode_prompt, with_end_of
from instruct.text.prompts import TEMPLATES, PromptParams
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SPECIAL = {END_OF_TEXT: 256, "<|im_start|>": 257, "<|im_end|>": 258}
TEMPLATES_HERE = {
    **TEMPLATES,
    "chatml without system": PromptParams(template="chatml", system="").chosen,
    "chatml with quotes": PromptParams(template="chatml", system='Say "é\\n" in {{ one }} line.\nOr two.').chosen,
}
CHATS = [
    ((Turn("Name a bird.", "", "A wren."),), ""),
    ((Turn("Spell it.", "recieve", "receive"), Turn("  Why?\n\n", "", "i before e")), ""),
    ((Turn("Un", "", "One"), Turn("Deux", "", "Two"), Turn("Trois {{ x }}", "", "Three")), 'Translate, "please"\n.'),
]


def bytes_with(special: dict[str, int], eos_id: int) -> Tokenizer:
    tokens = [*(bytes([value]) for value in range(256)), *(name.encode() for name in special)]
    return make_tokenizer(tokens, special, "gpt2", eos_id=eos_id)


TOKENIZERS = {"markers": bytes_with(SPECIAL, 256), "plain": bytes_with({END_OF_TEXT: 256}, 256)}


def small_model(family, size):
    if family == "gpt2":
        config = GPT2Config(vocab_size=size, n_positions=512, n_embd=32, n_layer=2, n_head=2, eos_token_id=256)
    else:
        config = LlamaConfig(
            vocab_size=size, max_position_embeddings=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=256,
        )  # fmt: skip
    model = random_model(config, seed=11)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 10 if weight.ndim > 1 else 1
        model.embedding.weight[256:] *= 1.8  # so that some answers end
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint as training leaves it: the folder, and the tokenizer that ends answers as its template does."""

    def save(template, kind, family="gpt2"):
        folder = tmp_path_factory.mktemp("checkpoint")
        tokenizer = with_end_of(TEMPLATES_HERE[template], TOKENIZERS[kind])
        model = small_model(family, tokenizer.vocab_size)
        save_checkpoint(model, tokenizer, folder, template=TEMPLATES_HERE[template])
        return folder, tokenizer

    return save


def messages_of(template, turns, system=""):
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        asked = turn.instruction + (template.before_input + turn.input if turn.input else "")
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": turn.output}]
    return messages


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", TEMPLATES_HERE)
def test_transformers_makes_the_tokens_of_training_and_of_generation(saved, name, kind):
    folder, tokenizer = saved(name, kind)
    template, theirs = TEMPLATES_HERE[name], AutoTokenizer.from_pretrained(folder)
    after = tokenizer.encode(template.between_turns)
    for turns, system in CHATS:
        messages = messages_of(template, turns, system)
        prompt = theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        assert prompt == encode_prompt(tokenizer, template.prompt(turns, system))
        whole = theirs.apply_chat_template(messages, return_dict=False)
        assert whole == [*encode_pieces(tokenizer, template.chat(turns, system)).ids, *after]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "roles", [["assistant"], ["user", "user"], ["user", "assistant", "assistant"], ["user", "system"], ["tool"]]
)
def test_roles_out_of_order_are_refused(saved, name, roles):
    theirs = AutoTokenizer.from_pretrained(saved(name, "markers")[0])
    with pytest.raises(TemplateError, match="roles"):
        theirs.apply_chat_template([{"role": role, "content": "x"} for role in roles])


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("alpaca", "plain", "llama"),
        ("phi3", "plain", "llama"),
        ("chatml", "markers", "llama"),
        ("chatml", "markers", "gpt2"),
    ],
)
def test_transformers_answers_as_we_do_token_for_token(saved, name, kind, family):
    folder, _ = saved(name, kind, family)
    template = TEMPLATES_HERE[name]
    model, loaded = load_checkpoint(folder, CPU)
    tokenizer = with_end_of(template, loaded)
    examples = [Example(id=str(i), instruction=f"{i} of {i * i}", input="", output="x") for i in range(12)]
    examples += [replace(examples[0], id="chat", history=(Turn("Hi", "", "Yo"),))]
    params = GenerateParams(
        max_new_tokens=24, temperature=0.0, top_k=0, top_p=1.0, num_samples=1, max_repeats=0, over_long="raise",
        weights="fp32", batch_size=8, cache_tokens=8192, seed=1,
    )  # fmt: skip
    prompts = {one.id: template.prompt(one.turns, one.system) for one in examples}
    ours = generate(
        model, tokenizer, prompts, prefix=template.prefix_pieces, stop_strings=template.stop_strings, params=params,
        runtime=Runtime(CPU, torch.float32), shown=False,
    )  # fmt: skip
    theirs, reader = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for one in examples:
        messages = messages_of(template, one.turns)[:-1]
        ids = reader.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        said = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24)[0, ids.shape[1] :].tolist()
        ended = said[-1] in tokenizer.stop_ids
        answer = said[:-1] if ended else said
        assert (ours[one.id].tokens, ours[one.id].stop_reason) == (len(answer), "end_of_text" if ended else "length")
        assert ours[one.id].text == reader.decode(answer).strip() == tokenizer.decode(answer).strip()
    assert {answer.stop_reason for answer in ours.values()} == {"end_of_text", "length"}


def test_a_checkpoint_names_all_tokens_that_end_an_answer(saved):
    folder, tokenizer = saved("chatml", "markers")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [258, 256]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 258
    reader = AutoTokenizer.from_pretrained(folder)
    assert (reader.eos_token, reader.pad_token) == ("<|im_end|>", END_OF_TEXT)
    assert {"<|im_start|>", "<|im_end|>"} <= set(reader.all_special_tokens)
    assert load_checkpoint(folder, CPU)[1].stop_ids == tokenizer.stop_ids == {256, 258}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_llama_cpp_uses_the_template_of_the_checkpoint(smollm2_backbone, smollm2_tokenizer, smollm2, tmp_path, name):
    """The real SmolLM2 with the template in its GGUF replaced by that of a checkpoint's tokenizer_config.json."""
    xllamacpp = pytest.importorskip("xllamacpp")
    template, folder, gguf = TEMPLATES[name], tmp_path / "checkpoint", tmp_path / "model.gguf"
    save_checkpoint(smollm2, smollm2_tokenizer, folder, template=template)
    (file,) = smollm2_backbone.files
    command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", smollm2_backbone.folder / file.name, gguf]
    subprocess.run(
        [*command, "--chat-template-config", folder / "tokenizer_config.json", "--force"],
        check=True,
        capture_output=True,
    )
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.use_jinja = str(gguf), 512, 0, True
    server = xllamacpp.Server(params)
    for turns, system in CHATS:
        messages = messages_of(template, turns, system)[:-1]
        body = json.dumps({"messages": messages}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{server.listening_address}/apply-template", body, headers)) as reply:
            prompt = json.load(reply)["prompt"]
        pieces = template.prompt(turns, system)
        end = smollm2_tokenizer.encoding.decode([smollm2_tokenizer.eos_id])
        assert prompt == "".join(end if piece.kind == "end" else piece.text for piece in pieces)
