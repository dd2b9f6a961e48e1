"""Continuous batching: requests join the answers in progress on a model, first come, first served, and leave freely.

A lane holds the prompts of one model that share a prefix. Its cache grows as needed, up to its bound, and shrinks
when nothing waits. The engine keeps every answer independent of the other answers in its lane.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from instruct.generation.cache import TILE, whole_tiles
from instruct.generation.decode import ENGINES, Running
from instruct.generation.engine import Engine, prompt_logits
from instruct.generation.rows import Row, Score, StopReason, scores_of
from instruct.generation.sampling import make_generator
from instruct.generation.settings import GenerateParams
from instruct.serving.systems import System
from instruct.text.encoding import encode_prompt
from instruct.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)
SMALL = 256  # tokens of a slot at the start


@dataclass(frozen=True, kw_only=True)
class Event:
    """News about an answer; the last event sets `reason` or `error`."""

    tokens: tuple[int, ...] = ()
    scores: tuple[Score, ...] = ()
    prompt_scores: tuple[Score, ...] = ()
    reason: StopReason | None = None
    error: str = ""


@dataclass(kw_only=True, eq=False)
class Job:
    """One requested answer.

    `best` asks for the scores of its tokens, `echo` also for those of the prompt, and `score_only` for no answer.
    End tokens do not stop an `endless` one. Its random numbers depend on `seed` and `name` alone. The engine's thread
    calls `deliver`.
    """

    system: str
    ids: Sequence[int]
    params: GenerateParams
    stop_strings: Sequence[str]
    deliver: Callable[[Event], None]
    seed: int = 0
    name: str = "0"
    best: int | None = None
    echo: bool = False
    score_only: bool = False
    endless: bool = False
    cancelled: bool = False
    told: int = 0
    row: Row | None = field(default=None, repr=False)

    @property
    def room(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.ids) + (0 if self.score_only else self.params.max_new_tokens)


class EndlessRow(Row):
    """A row that end tokens do not stop: they become part of the answer."""

    def take(self, token: int, tokenizer: Tokenizer) -> None:
        """Add a token, or end at the full length."""
        super().take(token, tokenizer)
        if self.stop_reason == "end_of_text":
            self.answer.append(token)
            self.stop_reason = "length" if len(self.answer) == self.params.max_new_tokens else None


Post = tuple[Job, Event]


class Lane:
    """The requests to one system whose prompts start with `prefix`."""

    def __init__(self, system: System, prefix: Sequence[int], *, slots: int, cache_tokens: int) -> None:
        self.system, self.prefix, self._bound = system, list(prefix), cache_tokens - len(prefix)
        self._make = ENGINES.get(system.model.device.type, Engine)
        whole = whole_tiles(system.model.block_size - len(prefix))
        fits = max(self._bound // whole, 1)
        self._most = slots if self._make is Engine else min(slots, fits)
        beginning = min(whole, whole_tiles(SMALL))
        self._small = min(TILE, slots, max(self._bound // beginning, 1)), beginning
        self._size = self._small if self._make is Engine else (self._most, whole)
        self.waiting: deque[Job] = deque()
        self._running: Running | None = None
        self._joined = False  # in the last turn
        self._admitted: list[Job] = []  # no longer waiting, but without a row yet
        self._jobs: dict[int, Job] = {}  # by the identity of their rows
        self._posts: list[Post] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self._jobs)

    @property
    def active(self) -> int:
        """Answers in progress."""
        return len(self._jobs)

    def turn(self) -> list[Post]:
        """Admit waiting jobs or run one step, in turns, and deliver the news.

        First tokens are told before the next step begins. A pass that fails ends only its own answers.
        """
        try:
            with torch.inference_mode(), self.system.runtime.autocast():
                self._drop_cancelled()
                self._joined = not self._joined and self._join()
                if not self._joined and self._running and self._running.rows:
                    self._running.step()
                self._tell_news()
                if not self._jobs:
                    self._shrink()
        except Exception as error:  # any error: no client may wait for an answer that never comes
            log.exception("%s: a pass failed", self.system.name)
            self._give_up(f"the model failed: {error}")
        posts, self._posts = self._posts, []
        return posts

    def end(self) -> list[Post]:
        """The ends of all answers that are in progress or wait."""
        self._admitted += self.waiting
        self.waiting.clear()
        self._give_up("the server is shutting down")
        return self._posts

    def _give_up(self, why: str) -> None:
        unfinished = dict.fromkeys([*self._admitted, *self._jobs.values()])
        self._posts += [(job, Event(error=why)) for job in unfinished]
        self._admitted, self._jobs, self._running = [], {}, None

    def _drop_cancelled(self) -> None:
        self._posts += [(job, Event(reason="cancelled")) for job in self.waiting if job.cancelled]
        self.waiting = deque(job for job in self.waiting if not job.cancelled)
        for job in self._jobs.values():
            if job.cancelled and job.row:
                job.row.stop_reason = "cancelled"
        self._tell_news()

    def _join(self) -> bool:
        """Run the prompts of the next jobs in line; whether there were any."""
        self._admit()
        any_admitted = bool(self._admitted)
        for job in list(self._admitted):
            if job.echo:
                reason: StopReason | None = "length" if job.score_only else None
                self._posts.append((job, Event(prompt_scores=self._score(job), reason=reason)))
            if job.score_only:
                self._admitted.remove(job)
        rows = [self._row_of(job) for job in self._admitted]
        self._admitted = []
        if rows:
            self._start().join(rows)
        return any_admitted

    def _admit(self) -> None:
        """Take the next jobs in line that fit now."""
        widest = max((job.room for job in self._jobs.values()), default=0)
        longest = 0
        while self.waiting:
            job, taken = self.waiting[0], len(self._admitted)
            count, widest = len(self._jobs) + taken + 1, max(widest, job.room)
            longest = max(longest, len(job.ids))
            full = count > self._most or count * whole_tiles(widest) > self._bound
            crowded = (taken + 1) * longest > Engine.prefill_tokens
            if (full and count > 1) or (crowded and taken):
                return
            self._admitted.append(self.waiting.popleft())
            self._make_room(count, widest)

    def _start(self) -> Running:
        if self._running is None:
            model, vocabulary = self.system.model, self.system.tokenizer.vocab_size
            slots, capacity = self._size
            engine = self._make(model, self.prefix, slots=slots, capacity=capacity, vocab_size=vocabulary)
            self._running = Running(engine, self.system.tokenizer)
        return self._running

    def _make_room(self, count: int, widest: int) -> None:
        running = self._start()
        if not isinstance(running.engine, Engine):
            return
        cache, needed = running.engine.cache, whole_tiles(widest - len(self.prefix))
        if count <= cache.slots and needed <= cache.capacity:
            return
        slots = min(max(2 * count, cache.slots), self._most) if count > cache.slots else cache.slots
        capacity = max(cache.capacity, needed)
        if slots * capacity > self._bound:
            slots, capacity = count, needed
        cache.resize(slots, capacity, len(running.rows))

    def _shrink(self) -> None:
        """Free a cache that has grown, once no answer uses it."""
        engine = self._running.engine if self._running else None
        if isinstance(engine, Engine) and (engine.cache.slots, engine.cache.capacity) != self._small:
            engine.cache.resize(*self._small, 0)

    def _row_of(self, job: Job) -> Row:
        job.row = (EndlessRow if job.endless else Row)(
            id=job.name,
            prompt_tokens=len(job.ids),
            truncated_tokens=0,
            own=list(job.ids[len(self.prefix) :]),
            generator=make_generator(job.seed, job.name),
            params=job.params,
            stop_strings=job.stop_strings,
            best=job.best,
        )
        self._jobs[id(job.row)] = job
        return job.row

    def _score(self, job: Job) -> tuple[Score, ...]:
        model, vocabulary = self.system.model, self.system.tokenizer.vocab_size
        parts = prompt_logits(model, job.ids, vocabulary)
        return tuple(one for logits, ids in parts for one in scores_of(logits, ids, job.best or 0))

    def _tell_news(self) -> None:
        """Tell the new tokens of each row, and the end of the rows that leave."""
        if self._running is None:
            return
        gone = self._running.leave()
        for row in [*self._running.rows, *gone]:
            self._posts += self._tell(row)

    def _tell(self, row: Row) -> Iterator[Post]:
        job = self._jobs[id(row)]
        if len(row.answer) > job.told or row.stop_reason:
            new = tuple(row.answer[job.told :])
            scores = tuple(row.scores[job.told : len(row.answer)])
            job.told = len(row.answer)
            yield job, Event(tokens=new, scores=scores, reason=row.stop_reason)
        if row.stop_reason:
            del self._jobs[id(row)]


def lanes_of(system: System, *, slots: int, cache_tokens: int) -> list[Lane]:
    """The lane of the template's prompts, and the lane of all others."""
    prefix = encode_prompt(system.tokenizer, system.template.prefix_pieces)
    return [Lane(system, ids, slots=slots, cache_tokens=cache_tokens) for ids in ([prefix, []] if prefix else [[]])]


def lane_for(lanes: Sequence[Lane], ids: Sequence[int]) -> Lane:
    """The first lane that a prompt fits in."""
    return next(lane for lane in lanes if list(ids[: len(lane.prefix)]) == lane.prefix and len(ids) > len(lane.prefix))
