"""Prompts to responses: which prompt is in progress, when it stops, and what its text is.

Answers that end leave at once and waiting prompts take their place. The number in progress is bounded by the
cache, whatever the number of prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.progress import Progress
from instruct.core.runtime import Runtime
from instruct.generation.cache import whole_tiles
from instruct.generation.engine import Engine, Model, not_numbers
from instruct.generation.sampling import make_generator, next_token
from instruct.generation.settings import GenerateParams
from instruct.generation.static import StaticEngine
from instruct.text.encoding import Prompt, encode_prompt
from instruct.text.tokenizer import Tokenizer

StopReason = Literal["end_of_text", "stop_string", "length", "repetition"]
ENGINES: Mapping[str, type[Engine] | type[StaticEngine]] = {"cuda": StaticEngine}  # by device; else Engine
REFILL_SHARE = 0.25  # of the rows must be free before waiting prompts are run
LONGEST_REPEAT = 32  # tokens of a block that the repetition guard looks for


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one prompt; `tokens` leaves the end token out."""

    text: str
    stop_reason: StopReason
    prompt_tokens: int
    truncated_tokens: int
    tokens: int


@dataclass(kw_only=True)
class _Row:
    """One prompt being answered; `own` is what follows the prefix that all prompts share."""

    id: str
    prompt_tokens: int
    truncated_tokens: int
    own: list[int]
    generator: torch.Generator
    answer: list[int]
    stop_reason: StopReason | None = None


@dataclass(kw_only=True)
class _Batch:
    """Rows to be answered with one cache, the shortest first; each goes into one of `slots` of `capacity` tokens."""

    prefix: list[int]
    waiting: list[_Row]
    slots: int
    capacity: int


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Mapping[str, Prompt],
    *,
    prefix: Prompt,
    stop_strings: Sequence[str],
    params: GenerateParams,
    runtime: Runtime,
    on_answer: Callable[[str, Answer], None] = lambda id_, answer: None,
    known: int = 0,
    shown: bool = True,
) -> dict[str, Answer]:
    """Answer each prompt; keys are ids, and each answer depends on its own prompt, id and settings only.

    `prefix` is what a template puts before every instruction: it is computed once. `on_answer` is called
    as soon as an answer is complete. Progress counts `known` answers from before; it is silent unless `shown`.
    Raises DataError that names each prompt which leaves no room for `max_new_tokens` in the model's context, and for
    a stop string that is not text or is empty.
    """
    for stop in stop_strings:
        if not isinstance(stop, str) or not stop:
            raise DataError(f"a stop string must be text that is not empty, is {stop!r}; correct the template")
    batches = _plan(model, tokenizer, prompts, prefix, params)
    answers: dict[str, Answer] = {}

    def finish(row: _Row) -> None:
        answers[row.id] = _to_answer(row, tokenizer, stop_strings)
        on_answer(row.id, answers[row.id])
        progress.add()

    def after_step(rows: Sequence[_Row]) -> None:
        progress.add(0, note=f"{sum(len(row.answer) for row in rows)} tokens of {len(rows)} more")

    with (
        Progress(known + len(prompts), "answer", done=known, shown=shown) as progress,
        torch.inference_mode(),
        runtime.autocast(),
    ):
        for batch in batches:
            _answer_batch(model, tokenizer, batch, params, stop_strings, finish, after_step)
    return {id_: answers[id_] for id_ in prompts}


def check_prompts(
    model: Model, tokenizer: Tokenizer, prompts: Mapping[str, Prompt], *, prefix: Prompt, params: GenerateParams
) -> None:
    """Raise what `generate` would raise for these prompts, before any of them is answered."""
    _plan(model, tokenizer, prompts, prefix, params)


def _plan(
    model: Model, tokenizer: Tokenizer, prompts: Mapping[str, Prompt], prefix: Prompt, params: GenerateParams
) -> list[_Batch]:
    """The prompts as rows in batches whose slots fit, the long ones apart from those of less than half their room."""
    rows = _make_rows(tokenizer, prompts, model.block_size, params)
    shared = encode_prompt(tokenizer, prefix)
    # A prompt that the tokenizer joins with its prefix goes without; it must not change how the others are computed.
    groups: tuple[list[_Row], list[_Row]] = ([], [])
    for row in rows:
        groups[0 if row.own[: len(shared)] == shared and len(row.own) > len(shared) else 1].append(row)
    batches: list[_Batch] = []
    for group, ids in zip(groups, (shared, []), strict=True):
        for row in group:
            row.own = row.own[len(ids) :]
        waiting = sorted(group, key=lambda row: len(row.own))
        while waiting:
            room = len(waiting[-1].own) + params.max_new_tokens
            capacity = whole_tiles(room)
            first = next(i for i, row in enumerate(waiting) if 2 * (len(row.own) + params.max_new_tokens) >= room)
            slots = min(params.batch_size, (params.cache_tokens - len(ids)) // capacity, len(waiting) - first)
            if slots < 1:
                raise ParamsError(
                    f"params.yaml: generate.cache_tokens is {params.cache_tokens}, but record {waiting[-1].id} needs "
                    f"{capacity + len(ids)} with its answer; raise it"
                )
            batches.append(_Batch(prefix=ids, waiting=waiting[first:], slots=slots, capacity=capacity))
            del waiting[first:]
    return batches


def _make_rows(
    tokenizer: Tokenizer, prompts: Mapping[str, Prompt], block_size: int, params: GenerateParams
) -> list[_Row]:
    room = block_size - params.max_new_tokens
    rows, problems = [], []
    for id_, text in prompts.items():
        try:
            ids = encode_prompt(tokenizer, text)
        except DataError as error:
            raise DataError(f"record {id_}: {error}") from None
        cut = max(len(ids) - room, 0)
        if cut and (params.over_long == "raise" or room < 2):
            problems.append(f"record {id_}: its prompt has {len(ids)} tokens")
        head = (len(ids) - cut + 1) // 2  # cut from the middle: both ends are the template's
        own = ids[:head] + ids[head + cut :]
        generator = make_generator(params.seed, id_)
        rows.append(_Row(id=id_, prompt_tokens=len(ids), truncated_tokens=cut, own=own, generator=generator, answer=[]))
    if problems:
        remedy = f"the model has room for {room} beside generate.max_new_tokens {params.max_new_tokens}"
        raise DataError("\n".join([*problems, f"{remedy}; shorten them, or set generate.over_long: truncate"]))
    return rows


def _answer_batch(
    model: Model,
    tokenizer: Tokenizer,
    batch: _Batch,
    params: GenerateParams,
    stop_strings: Sequence[str],
    finish: Callable[[_Row], None],
    after_step: Callable[[Sequence[_Row]], None],
) -> None:
    """Answer rows that share a prefix, the longest prompts first, so that every later one fits into a slot."""
    waiting, slots = batch.waiting, batch.slots
    make_engine = ENGINES.get(model.device.type, Engine)
    engine = make_engine(model, batch.prefix, slots=slots, capacity=batch.capacity, vocab_size=tokenizer.vocab_size)
    active: list[_Row] = []
    while waiting or active:
        free = slots - len(active)
        if waiting and (not active or free >= REFILL_SHARE * slots):
            new = _take_waiting(waiting, free, engine.prefill_tokens)
            columns = [_choose(new, engine.prefill([row.own for row in new], first=len(active)), params)]
            active += new
        else:
            new = active
            columns = _next_tokens(engine, active, params)
        for tokens in columns:
            for row, token in zip(new, tokens, strict=True):
                if row.stop_reason is None:
                    row.stop_reason = _stop_reason(row, token, params, tokenizer, stop_strings)
        for slot in reversed(range(len(active))):
            if active[slot].stop_reason is None:
                continue
            finish(active[slot])
            last = active.pop()
            if slot < len(active):
                engine.move(len(active), slot)
                active[slot] = last
        after_step(active)


def _take_waiting(waiting: list[_Row], free: int, prefill_tokens: int) -> list[_Row]:
    """The next prompts, the longest first, as many as slots are free and one pass should hold."""
    taken: list[_Row] = []
    while waiting and len(taken) < free:
        longest = len(taken[0].own) if taken else 0
        if (len(taken) + 1) * longest > prefill_tokens:  # attention in a pass is as wide as its longest prompt
            break
        taken.append(waiting.pop())
    return taken


def _next_tokens(engine: Engine | StaticEngine, rows: Sequence[_Row], params: GenerateParams) -> list[list[int]]:
    """The next tokens of all rows, step by step: several steps at once where the engine chooses them itself.

    A row may end in one of them; what it is given after that does not count.
    """
    newest = [row.answer[-1] for row in rows]
    if params.temperature > 0 or isinstance(engine, Engine):
        return [_choose(rows, engine.decode(newest), params)]
    left = params.max_new_tokens - min(len(row.answer) for row in rows)
    columns, broken = engine.decode_greedily(newest, min(engine.burst, left))
    _refuse_broken(rows, broken)
    return columns


def _choose(rows: Sequence[_Row], logits: Tensor, params: GenerateParams) -> list[int]:
    """Each row's next token from (N, vocab_size) logits."""
    _refuse_broken(rows, not_numbers(logits))
    if params.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    return [next_token(one, params, row.generator) for row, one in zip(rows, logits, strict=True)]


def _refuse_broken(rows: Sequence[_Row], broken: Sequence[bool]) -> None:
    ids = ", ".join(row.id for row, bad in zip(rows, broken, strict=True) if bad)
    if ids:
        raise CheckpointError(
            f"records {ids}: the model's output is not a number; its weights are damaged, train again"
        )


def _stop_reason(
    row: _Row, token: int, params: GenerateParams, tokenizer: Tokenizer, stop_strings: Sequence[str]
) -> StopReason | None:
    if token in tokenizer.stop_ids:
        return "end_of_text"
    row.answer.append(token)
    # A token is at least one byte, so the last tokens hold any stop string that ends with this one.
    reach = max((len(stop.encode()) for stop in stop_strings), default=0)
    tail = tokenizer.decode(row.answer[-reach:]) if reach else ""
    if any(stop in tail for stop in stop_strings):
        return "stop_string"
    if params.max_repeats and repeats(row.answer, params.max_repeats):
        return "repetition"
    return "length" if len(row.answer) == params.max_new_tokens else None


def repeats(tokens: Sequence[int], times: int) -> bool:
    """Whether `tokens` ends with one block of up to LONGEST_REPEAT tokens, `times` over."""
    for size in range(1, min(LONGEST_REPEAT, len(tokens) // times) + 1):
        block = tokens[-size:]
        if all(tokens[-size * (i + 1) : -size * i or None] == block for i in range(times)):
            return True
    return False


def _to_answer(row: _Row, tokenizer: Tokenizer, stop_strings: Sequence[str]) -> Answer:
    text = tokenizer.decode(row.answer)
    if row.stop_reason == "stop_string":
        text = text[: min(text.find(stop) for stop in stop_strings if stop in text)]
    assert row.stop_reason is not None
    return Answer(
        text=text.strip(),
        stop_reason=row.stop_reason,
        prompt_tokens=row.prompt_tokens,
        truncated_tokens=row.truncated_tokens,
        tokens=len(row.answer),
    )
