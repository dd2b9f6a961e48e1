"""Prompts to responses: which prompts are in progress, when each stops, and its text.

Finished answers leave at once and waiting prompts take their place. The cache bounds the number in progress,
regardless of the number of prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.progress import Progress
from instruct.core.runtime import Runtime
from instruct.generation.cache import whole_tiles
from instruct.generation.drafts import deal
from instruct.generation.engine import Engine, Model, not_numbers
from instruct.generation.rows import Answer, Row
from instruct.generation.sampling import make_generator
from instruct.generation.settings import GenerateParams
from instruct.generation.static import BURST, StaticEngine
from instruct.text.encoding import Prompt, encode_prompt
from instruct.text.tokenizer import Tokenizer

ENGINES: Mapping[str, type[Engine] | type[StaticEngine]] = {"cuda": StaticEngine}  # by device; else Engine
REFILL_SHARE = 0.25  # of the rows must be free before waiting prompts are run


@dataclass(kw_only=True)
class _Batch:
    """Rows that share one cache, the shortest first; each uses one of `slots` of `capacity` tokens."""

    prefix: list[int]
    waiting: list[Row]
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
    batches = _plan(model, tokenizer, prompts, prefix, params, stop_strings)
    answers: dict[str, Answer] = {}

    def finish(row: Row) -> None:
        answers[row.id] = row.finished(tokenizer)
        on_answer(row.id, answers[row.id])
        progress.add()

    def after_step(rows: Sequence[Row]) -> None:
        progress.add(0, note=f"{sum(len(row.answer) for row in rows)} tokens of {len(rows)} more")

    with (
        Progress(known + len(prompts), "answer", done=known, shown=shown) as progress,
        torch.inference_mode(),
        runtime.autocast(),
    ):
        for batch in batches:
            _answer_batch(model, tokenizer, batch, finish, after_step)
    return {id_: answers[id_] for id_ in prompts}


def check_prompts(
    model: Model, tokenizer: Tokenizer, prompts: Mapping[str, Prompt], *, prefix: Prompt, params: GenerateParams
) -> None:
    """Raise any error of `generate` for these prompts, before any of them is answered."""
    _plan(model, tokenizer, prompts, prefix, params)


def _plan(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Mapping[str, Prompt],
    prefix: Prompt,
    params: GenerateParams,
    stop_strings: Sequence[str] = (),
) -> list[_Batch]:
    """The prompts as rows in batches that fit, with long ones apart from those under half their length."""
    rows = _make_rows(tokenizer, prompts, model.block_size, params, stop_strings)
    shared = encode_prompt(tokenizer, prefix)
    # A prompt that the tokenizer joins with its prefix goes without; it must not change how the others are computed.
    groups: tuple[list[Row], list[Row]] = ([], [])
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
    tokenizer: Tokenizer,
    prompts: Mapping[str, Prompt],
    block_size: int,
    params: GenerateParams,
    stop_strings: Sequence[str],
) -> list[Row]:
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
        rows.append(
            Row(
                id=id_,
                prompt_tokens=len(ids),
                truncated_tokens=cut,
                own=own,
                generator=generator,
                params=params,
                stop_strings=stop_strings,
            )
        )
    if problems:
        remedy = f"the model has room for {room} beside generate.max_new_tokens {params.max_new_tokens}"
        raise DataError("\n".join([*problems, f"{remedy}; shorten them, or set generate.over_long: truncate"]))
    return rows


def _answer_batch(
    model: Model,
    tokenizer: Tokenizer,
    batch: _Batch,
    finish: Callable[[Row], None],
    after_step: Callable[[Sequence[Row]], None],
) -> None:
    """Answer rows that share a prefix, the longest prompts first, so that every later one fits into a slot."""
    waiting, slots = batch.waiting, batch.slots
    make_engine = ENGINES.get(model.device.type, Engine)
    engine = make_engine(model, batch.prefix, slots=slots, capacity=batch.capacity, vocab_size=tokenizer.vocab_size)
    running = Running(engine, tokenizer)
    while waiting or running.rows:
        free = slots - len(running.rows)
        if waiting and (not running.rows or free >= REFILL_SHARE * slots):
            running.join(_take_waiting(waiting, free, engine.prefill_tokens))
        else:
            running.step()
        for row in running.leave():
            finish(row)
        after_step(running.rows)


def _take_waiting(waiting: list[Row], free: int, prefill_tokens: int) -> list[Row]:
    """The next prompts, the longest first, as many as free slots and one pass allow."""
    taken: list[Row] = []
    while waiting and len(taken) < free:
        longest = len(taken[0].own) if taken else 0
        if (len(taken) + 1) * longest > prefill_tokens:  # attention in a pass is as wide as its longest prompt
            break
        taken.append(waiting.pop())
    return taken


class Running:
    """The answers in progress on one engine: new ones join between two steps, and one that ends frees its slot."""

    def __init__(self, engine: Engine | StaticEngine, tokenizer: Tokenizer) -> None:
        self.engine, self.rows, self._tokenizer = engine, list[Row](), tokenizer

    def join(self, new: list[Row]) -> None:
        """Run prompts into the next free slots, of which there must be as many; each is given its first token."""
        logits = self.engine.prefill([row.own for row in new], first=len(self.rows))
        self.rows += new
        self._take(new, [_choose(new, logits)])

    def step(self, most: int = BURST) -> None:
        """One more token for each row, or several where drafts were right or the engine chooses tokens itself.

        A row may end in between; later tokens do not count.
        """
        if isinstance(self.engine, Engine):
            self._step_with_drafts(self.engine)
            return
        newest = [row.answer[-1] for row in self.rows]
        if any(row.params.temperature or row.best is not None for row in self.rows):
            self._take(self.rows, [_choose(self.rows, self.engine.decode(newest))])
            return
        left = max(row.params.max_new_tokens - len(row.answer) for row in self.rows)
        columns, broken = self.engine.decode_greedily(newest, min(most, left))
        _refuse_broken(self.rows, broken)
        self._take(self.rows, columns)

    def _step_with_drafts(self, engine: Engine) -> None:
        """One more token for each row, and one more for each token of a draft that was right."""
        spare = engine.spare(len(self.rows))
        drafts = deal([row.draft(spare) if spare else [] for row in self.rows], spare)
        texts = [[row.answer[-1], *draft] for row, draft in zip(self.rows, drafts, strict=True)]
        logits = engine.decode(texts)
        broken, likeliest = not_numbers(logits), logits.argmax(dim=-1).tolist()
        ends = list(accumulate(map(len, texts)))
        parts = [slice(end - len(text), end) for text, end in zip(texts, ends, strict=True)]
        _refuse_broken(self.rows, [broken[part.start] for part in parts])
        engine.keep(
            [
                self._take_right(row, draft, logits[part], likeliest[part], broken[part])
                for row, draft, part in zip(self.rows, drafts, parts, strict=True)
            ]
        )

    def _take_right(
        self, row: Row, draft: Sequence[int], logits: Tensor, likeliest: Sequence[int], broken: Sequence[bool]
    ) -> int:
        """Take the next token and those after it while they are the draft's → how many places were needed."""
        for place in range(len(draft) + 1):
            if broken[place]:
                return place  # the next step refuses it, unless the row ends before
            token = row.choose(logits[place], likeliest[place])
            row.take(token, self._tokenizer)
            if row.stop_reason or [token] != list(draft[place : place + 1]):
                break
        return place + 1

    def leave(self) -> list[Row]:
        """Take out the rows that have stopped; those that go on hold the first slots again."""
        gone = []
        for slot in reversed(range(len(self.rows))):
            if self.rows[slot].stop_reason is None:
                continue
            gone.append(self.rows[slot])
            last = self.rows.pop()
            if slot < len(self.rows):
                self.engine.move(len(self.rows), slot)
                self.rows[slot] = last
        return gone

    def _take(self, rows: Sequence[Row], columns: Sequence[Sequence[int]]) -> None:
        for tokens in columns:
            for row, token in zip(rows, tokens, strict=True):
                if row.stop_reason is None:
                    row.take(token, self._tokenizer)


def _choose(rows: Sequence[Row], logits: Tensor) -> list[int]:
    """Each row's next token from (N, vocab_size) logits."""
    _refuse_broken(rows, not_numbers(logits))
    likeliest = logits.argmax(dim=-1).tolist()
    return [row.choose(one, token) for row, one, token in zip(rows, logits, likeliest, strict=True)]


def _refuse_broken(rows: Sequence[Row], broken: Sequence[bool]) -> None:
    ids = ", ".join(row.id for row, bad in zip(rows, broken, strict=True) if bad)
    if ids:
        raise CheckpointError(
            f"records {ids}: the model's output is not a number; its weights are damaged, train again"
        )
