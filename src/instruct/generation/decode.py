"""Prompts to responses: prefill and decode of left-padded batches with a key-value cache.

B rows still being answered · T prompt tokens with padding
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from instruct.errors import DataError
from instruct.generation.sampling import make_generator, next_token
from instruct.generation.settings import GenerateParams
from instruct.model.decoder import Decoder, KVCache
from instruct.runtime import Runtime
from instruct.text.tokenizer import Tokenizer

StopReason = Literal["end_of_text", "stop_string", "length"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one prompt; `tokens` leaves the end token out."""

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    tokens: int


@dataclass(kw_only=True)
class _Row:
    """One prompt being answered."""

    id: str
    prompt: list[int]
    generator: torch.Generator
    answer: list[int]
    stop_reason: StopReason | None = None


def generate(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Mapping[str, str],
    *,
    params: GenerateParams,
    stop_strings: Sequence[str],
    runtime: Runtime,
) -> dict[str, Answer]:
    """Answer each prompt, in the order given; keys are record ids.

    Raises DataError that names each prompt which leaves no room for `max_new_tokens` in the model's context.
    """
    rows = [
        _Row(id=id_, prompt=tokenizer.encode(text), generator=make_generator(params.seed, id_), answer=[])
        for id_, text in prompts.items()
    ]
    _check_room(rows, model.block_size, params.max_new_tokens)
    by_length = sorted(rows, key=lambda row: len(row.prompt))
    with tqdm(total=len(rows), unit="answer", disable=None) as bar, torch.inference_mode():
        for start in range(0, len(rows), params.batch_size):
            batch = by_length[start : start + params.batch_size]
            with runtime.autocast():
                _answer_batch(model, tokenizer, batch, params, stop_strings)
            bar.update(len(batch))
    return {row.id: _finish(row, tokenizer, stop_strings) for row in rows}


def _check_room(rows: Sequence[_Row], block_size: int, max_new_tokens: int) -> None:
    room = block_size - max_new_tokens
    problems = [f"record {row.id}: its prompt has {len(row.prompt)} tokens" for row in rows if len(row.prompt) > room]
    if problems:
        remedy = f"the model has room for {room} beside {max_new_tokens} new ones; shorten them or max_new_tokens"
        raise DataError("\n".join([*problems, remedy]))


def _answer_batch(
    model: Decoder, tokenizer: Tokenizer, rows: list[_Row], params: GenerateParams, stop_strings: Sequence[str]
) -> None:
    """Answer the rows side by side, each until it stops."""
    longest = max(len(row.prompt) for row in rows)
    padding = [longest - len(row.prompt) for row in rows]
    cache = KVCache(padding, longest + params.max_new_tokens, model.device)
    input_ids = torch.tensor(
        [[tokenizer.eos_id] * pad + row.prompt for pad, row in zip(padding, rows, strict=True)], device=model.device
    )
    offsets = torch.tensor(padding, device=model.device)[:, None]  # (B, 1)
    logits = _forward(model, cache, input_ids, offsets)
    active = list(rows)
    for count in range(1, params.max_new_tokens + 1):
        for row, row_logits in zip(active, logits, strict=True):
            if row.stop_reason is None:
                _take_token(row, next_token(row_logits, params, row.generator), tokenizer, stop_strings)
        if count == params.max_new_tokens:
            break
        going = [i for i, row in enumerate(active) if row.stop_reason is None]
        if not going:
            return
        # Rows that ended are dropped in groups, since dropping copies the cache.
        if len(going) <= 0.75 * len(active):
            keep = torch.tensor(going, device=model.device)
            cache.keep(keep)
            offsets = offsets[keep]
            active = [active[i] for i in going]
        last = [[row.answer[-1] if row.answer else tokenizer.eos_id] for row in active]
        logits = _forward(model, cache, torch.tensor(last, device=model.device), offsets)
    for row in active:
        row.stop_reason = row.stop_reason or "length"


def _forward(model: Decoder, cache: KVCache, input_ids: Tensor, offsets: Tensor) -> Tensor:
    """One pass over (B, T) new tokens → (B, vocab_size) logits of each row's newest token."""
    cache.begin(input_ids.shape[1])
    places = torch.arange(cache.length, cache.length + input_ids.shape[1], device=input_ids.device)
    hidden = model.hidden_states(input_ids, (places - offsets).clamp(min=0), cache)  # (B, T, C)
    cache.end()
    return model.logits(hidden[:, -1]).float()


def _take_token(row: _Row, token: int, tokenizer: Tokenizer, stop_strings: Sequence[str]) -> None:
    if token in tokenizer.stop_ids:
        row.stop_reason = "end_of_text"
        return
    row.answer.append(token)
    # A token is at least one byte, so the last tokens hold any stop string that ends with this one.
    reach = max((len(stop.encode()) for stop in stop_strings), default=0)
    tail = tokenizer.decode(row.answer[-reach:]) if reach else ""
    if any(stop in tail for stop in stop_strings):
        row.stop_reason = "stop_string"


def _finish(row: _Row, tokenizer: Tokenizer, stop_strings: Sequence[str]) -> Answer:
    text = tokenizer.decode(row.answer)
    if row.stop_reason == "stop_string":
        text = text[: min(text.find(stop) for stop in stop_strings if stop in text)]
    assert row.stop_reason is not None
    return Answer(text=text.strip(), stop_reason=row.stop_reason, prompt_tokens=len(row.prompt), tokens=len(row.answer))
