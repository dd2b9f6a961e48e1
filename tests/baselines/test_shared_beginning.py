"""Examples before every question are one long common beginning: it is computed once, and changes no answer."""

from collections import Counter

import pytest
import torch

from instruct.backbones.catalog import Backbone
from instruct.baselines.asking import Ways
from instruct.baselines.chat import OwnChat
from instruct.baselines.settings import BaselineParams
from instruct.baselines.shots import ShotsAsText
from instruct.core.errors import DataError
from instruct.core.records import Example, Turn
from instruct.core.runtime import Runtime
from instruct.generation import decode
from instruct.generation.cache import TILE
from instruct.generation.decode import generate
from instruct.generation.engine import Engine
from instruct.generation.settings import GenerateParams
from instruct.generation.static import StaticEngine
from instruct.model.chat_template import ChatTemplate
from instruct.model.pretrained import load_backbone
from instruct.text.encoding import encode_prompt
from instruct.text.prompts import TEMPLATES

TINY = Backbone(
    name="tiny", family="gpt2", format="random", licence="none", about="random", files=(), seed=1,
    config={"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512},
)  # fmt: skip
# GPT-2 has one special token, so that this is a chat template as good as any.
PLAIN_CHAT = ChatTemplate(
    source="{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{{ 'assistant: ' }}"
)
SHOTS = [Example(id=f"s{i}", instruction=f"Name {i} trees.", input="", output="Oak. " * (i + 2)) for i in range(5)]
QUESTIONS = {f"q{i}": Turn(f"Question {i}: what is {'very ' * i}far?") for i in range(40)}
PARAMS = GenerateParams(
    max_new_tokens=4, temperature=0.0, top_k=0, top_p=1.0, num_samples=1, max_repeats=0, over_long="raise",
    weights="fp32", batch_size=8, cache_tokens=8192, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    return load_backbone(TINY, torch.device("cpu"))


@pytest.fixture
def passes(tiny, monkeypatch):
    """The shape of the ids of every forward pass."""
    shapes = []
    real = tiny[0].hidden_states

    def counted(input_ids, positions, attend):
        shapes.append(tuple(input_ids.shape))
        return real(input_ids, positions, attend)

    monkeypatch.setattr(tiny[0], "hidden_states", counted)
    return shapes


@pytest.mark.parametrize("engine", [Engine, StaticEngine])
@pytest.mark.parametrize("name", ["own chat", "as text"])
def test_the_examples_are_computed_once_for_all_questions(tiny, passes, name, engine, one_thread, monkeypatch):
    monkeypatch.setitem(decode.ENGINES, "cpu", engine)
    model, tokenizer = tiny
    ways = {
        "own chat": OwnChat(PLAIN_CHAT, tokenizer, SHOTS),
        "as text": ShotsAsText(template=TEMPLATES["alpaca"], shots=SHOTS),
    }
    way = ways[name]
    prompts = {id_: way.prompt([turn]) for id_, turn in QUESTIONS.items()}
    options = {"stop_strings": way.stop_strings, "params": PARAMS}
    runtime = Runtime(torch.device("cpu"), torch.float32)
    answers = generate(model, tokenizer, prompts, prefix=way.prefix_pieces, runtime=runtime, **options)
    lengths = {id_: len(encode_prompt(tokenizer, prompt)) for id_, prompt in prompts.items()}
    shared = len(encode_prompt(tokenizer, way.prefix_pieces))
    prefilled = sum(rows * columns for rows, columns in passes if columns > 1)  # a decoding pass has one token a row
    own = sum(length - shared for length in lengths.values())
    beginnings = Counter(passes)[(1, shared)]
    assert shared > 80 and beginnings * shared + own <= prefilled <= beginnings * shared + own + 40 * TILE
    assert beginnings <= 2  # prompts of less than half the length of the longest are a batch of their own
    assert prefilled < sum(lengths.values()) / 2
    alone = generate(model, tokenizer, prompts, prefix=[], runtime=runtime, **options)
    assert {id_: one.text for id_, one in alone.items()} == {id_: one.text for id_, one in answers.items()}


# Which systems there are, and how many examples.


def ways_of(tokenizer, own, shots=5, systems=("template", "chat", "few-shot", "echo"), room=400, train=SHOTS):
    ways = Ways(TEMPLATES["alpaca"], own, tokenizer, BaselineParams(systems=systems, shots=shots, seed=1))
    test = [Example(id=id_, instruction=turn.instruction, input="", output="x") for id_, turn in QUESTIONS.items()]
    return ways.all(train, test, room), ways.lines


def test_a_backbone_without_a_chat_template_leaves_chat_out_and_is_shown_examples_as_text(tiny):
    found, lines = ways_of(tiny[1], None)
    assert [(name, type(way).__name__) for name, way in found.items()] == [
        ("template", "Template"),
        ("few-shot", "ShotsAsText"),
    ]
    assert len(found["few-shot"].shots) == 5
    assert len(lines) == 1 and lines[0].startswith("chat is left out")


def test_with_a_chat_template_chat_and_examples_are_asked_in_it(tiny):
    found, lines = ways_of(tiny[1], PLAIN_CHAT, systems=("few-shot", "chat"))
    assert [(name, type(way).__name__) for name, way in found.items()] == [("few-shot", "OwnChat"), ("chat", "OwnChat")]
    assert lines == []


@pytest.mark.parametrize(("own", "room"), [(None, 110), (PLAIN_CHAT, 110)])
def test_where_not_all_examples_fit_there_are_fewer_and_every_prompt_fits(tiny, own, room):
    found, (*_, line) = ways_of(tiny[1], own, room=room)
    longest = max(len(encode_prompt(tiny[1], found["few-shot"].prompt([turn]))) for turn in QUESTIONS.values())
    number = len(found["few-shot"].shots)
    assert 0 < number < 5 and longest <= room
    assert line.startswith(f"few-shot: {number} of 5 examples")


def test_where_no_example_fits_the_system_is_left_out_in_one_line(tiny):
    found, lines = ways_of(tiny[1], PLAIN_CHAT, room=60)
    assert "few-shot" not in found and lines[-1].startswith("few-shot is left out")


def test_fewer_examples_than_set_are_said(tiny):
    found, lines = ways_of(tiny[1], PLAIN_CHAT, train=SHOTS[:2])
    assert len(found["few-shot"].shots) == 2
    assert lines == [lines[0]] and lines[0].startswith("few-shot: 2 of 5 examples")


def test_a_character_that_the_tokenizer_cannot_spell_is_named_with_its_record(smollm2_tokenizer):
    ways = Ways(TEMPLATES["alpaca"], None, smollm2_tokenizer, BaselineParams(systems=("few-shot",), shots=1, seed=1))
    odd = [Example(id="odd", instruction="What is \U00050000?", input="", output="x")]
    with pytest.raises(DataError, match=r"^record odd: .*U\+50000"):
        ways.all(SHOTS, odd, 400)
