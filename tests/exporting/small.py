"""Small random checkpoints of both families, with a tokenizer of a few merges, for the tests of exports."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from small_training import scrambled

from instruct.core.records import Example
from instruct.exporting.export import read_check
from instruct.exporting.source import Source, open_source
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.text.encoding import encode_prompt
from instruct.text.tokenizer import END_OF_TEXT, Tokenizer, make_tokenizer

ROOT = Path(__file__).parents[2]
FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
MERGED = [b"th", b"in", b"the", b" t", b" the", b"er", b"on", b" i", b"##", b"###"]


def small_tokenizer(kind="gpt2", begin: str | None = None) -> Tokenizer:
    """One token a byte, some merges, and added ones: the end token is not `<|endoftext|>`, `<think>` is not special."""
    added = [END_OF_TEXT, "<|im_start|>", "<|im_end|>", "<think>", *filter(None, [begin])]
    tokens = [*(bytes([value]) for value in range(256)), *MERGED]
    ids = {name: len(tokens) + place for place, name in enumerate(added)}
    tokens += [name.encode() for name in added]
    return make_tokenizer(tokens, ids, kind, eos_id=ids["<|im_end|>"], begin=begin, written=["<think>"])


def config_of(family: str, tokenizer: Tokenizer, *, spare: int = 0, width: int = 64):
    rows, eos = tokenizer.vocab_size + spare, tokenizer.eos_id
    if family == "gpt2":
        return GPT2Config(vocab_size=rows, n_positions=320, n_embd=width, n_layer=2, n_head=4, eos_token_id=eos)
    other = {"family": family} | ({"tied": False, "head_dim": 24} if family == "qwen3" else {})
    return LlamaConfig(
        **other, vocab_size=rows, max_position_embeddings=320, hidden_size=width, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rope_theta=5000.0, eos_token_id=eos,
    )  # fmt: skip


def save_small(folder: Path, family: str, tokenizer: Tokenizer | None = None, **shape: int) -> Path:
    tokenizer = tokenizer or small_tokenizer()
    model = scrambled(random_model(config_of(family, tokenizer, **shape), seed=1), 8)
    save_checkpoint(model, tokenizer, folder)
    return folder


def small_source(folder: Path, family: str, template: str = "alpaca", **more) -> Source:
    return open_source(ROOT, save_small(folder / family, family, **more), template)


def padded_source(folder: Path, family: str) -> Source:
    """A checkpoint with padding rows that are larger copies of tokens' rows, so that they have the largest logits."""
    tokenizer = small_tokenizer()
    rows = tokenizer.vocab_size
    model = scrambled(random_model(config_of(family, tokenizer, spare=rows), seed=1), 8).requires_grad_(False)
    model.head[rows:] = model.head[:rows] * 1.5
    save_checkpoint(model, tokenizer, folder / family)
    return open_source(ROOT, folder / family, "alpaca")


def records(count: int = 4) -> list[Example]:
    names = ["the heron", "a thing", "", "in the inn", "###", "naïve 12 café"]
    return [
        Example(id=f"r{i}", instruction=f"Say it {i} times.", input=names[i % len(names)], output=f"It {i}.", kind="a")
        for i in range(count)
    ]


def check_of(folder: Path, examples, most: int = 12, checks=None):
    """A check of these records with the settings of the project, answers of at most so many tokens."""
    shutil.copy(ROOT / "params.yaml", folder)
    nothing = read_check("0", folder, Path("none"))
    generate = replace(nothing.generate, max_new_tokens=most)
    evaluate = replace(nothing.evaluate, resamples=100)
    settings = {"generate": generate, "evaluate": evaluate, "threads": 1, "checks": checks or {}}
    return replace(nothing, examples=examples, total=len(examples), **settings)


def made_to_end(source: Source, example: Example, place: int = 3) -> tuple[int, ...]:
    """Let the model end its greedy answer to a record: the row of a token that it would write becomes the end token's.

    Returns the tokens before the end, of which there are `place` or a few more.
    """
    prompt = encode_prompt(source.tokenizer, source.template.prompt(example.turns))
    tokens: list[int] = []
    while len(tokens) < 40:
        logits = source.model(torch.tensor([prompt + tokens]))[0, -1, : source.tokenizer.vocab_size]
        token = int(logits.argmax())
        if len(tokens) >= place and token not in prompt + tokens and token not in source.tokenizer.stop_ids:
            rows, eos = source.model.head, source.tokenizer.eos_id
            rows[[token, eos]] = rows[[eos, token]]
            return tuple(tokens)
        tokens.append(token)
    raise AssertionError("the model repeats itself; take other weights")
