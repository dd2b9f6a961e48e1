"""Lengths in tokens as in training, in bounded time and memory.

With more than `limit` records only those with a small hash of their id count: each time there are too many, half of
the hash range drops out. The sample does not depend on the order, and the report says how many records it holds. The
longest records by bytes always count, so that the maximum length is not missed.
"""

import heapq
from array import array
from typing import Any
from zlib import crc32

import numpy as np

from instruct.core.errors import DataError
from instruct.core.records import Example
from instruct.text.encoding import count_prompts
from instruct.text.prompts import Piece, Template
from instruct.text.tokenizer import Tokenizer

_BATCH = 1024
_WHOLE = 1 << 32
_ALWAYS = 20
_LONG = 100_000  # characters; a longer text is tokenised alone, with the tokenizer's own guard
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


class Lengths:
    """Counts tokens of prompts and responses; a response counts its end token, as in training.

    In a chat the response is the last answer; everything before it is the prompt.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, limit: int) -> None:
        self._tokenizer, self._template, self._limit = tokenizer, template, limit
        self._below = _WHOLE
        self._waiting: list[tuple[int, str, list[Piece], str]] = []
        self._keys, self._prompts, self._responses, self._part_of = (array("I") for _ in range(4))
        self._parts: list[str] = []
        self._longest: list[tuple[int, str, list[Piece], str]] = []

    def add(self, example: Example, part: str) -> None:
        """Add one record; its tokens are counted later, in a batch."""
        key = crc32(example.id.encode("utf-8"))
        size = len(example.system) + sum(len(text) for turn in example.turns for text in turn)
        remarkable = len(self._longest) < _ALWAYS or size > self._longest[0][0]
        if key >= self._below and not remarkable:
            return
        prompt = self._template.prompt(example.turns, example.system)
        if remarkable:
            push = heapq.heappush if len(self._longest) < _ALWAYS else heapq.heappushpop
            push(self._longest, (size, example.id, prompt, example.output))
        if key < self._below:
            self._waiting.append((key, part, prompt, example.output))
            if len(self._waiting) >= _BATCH:
                self._count()

    def _count(self) -> None:
        waiting = [one for one in self._waiting if one[0] < self._below]
        self._waiting = []
        prompts = count_prompts(self._tokenizer, (prompt for _, _, prompt, _ in waiting), self._lengths)
        responses = self._lengths([response for _, _, _, response in waiting])
        for (key, part, _, _), prompt, response in zip(waiting, prompts, responses, strict=True):
            if part not in self._parts:
                self._parts.append(part)
            self._keys.append(key)
            self._part_of.append(self._parts.index(part))
            self._prompts.append(prompt)
            self._responses.append(response + 1)
        while len(self._keys) > self._limit:
            self._halve()

    def _halve(self) -> None:
        self._below //= 2
        kept = np.array(self._keys) < self._below
        columns = (self._keys, self._prompts, self._responses, self._part_of)
        self._keys, self._prompts, self._responses, self._part_of = (
            array("I", np.array(column)[kept].tolist()) for column in columns
        )

    def _lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text; a text that cannot be tokenised counts its bytes, the upper bound."""
        plain = [text for text in texts if len(text) <= _LONG]
        counted = iter(self._tokenizer.lengths(plain))
        return [next(counted) if len(text) <= _LONG else self._length(text) for text in texts]

    def _length(self, text: str) -> int:
        try:
            return len(self._tokenizer.encode(text))
        except DataError:
            return len(text.encode("utf-8"))

    def report(self, records: int) -> dict[str, Any]:
        """Counts, means and percentiles of prompt, response and both, and the longest records."""
        self._count()
        prompts = np.array(self._prompts, dtype=np.int64)
        responses = np.array(self._responses, dtype=np.int64)
        totals = prompts + responses
        longest = self._longest_records()
        return {
            "records": records,
            "counted": len(totals),
            "max": max([int(totals.max(initial=0)), *(record["tokens"] for record in longest)]),
            "longest": longest,
            "prompt": _describe(prompts),
            "response": _describe(responses),
            "total": _describe(totals),
            "parts": {
                name: _sums(prompts[chosen], responses[chosen])
                for i, name in enumerate(self._parts)
                if name and len(chosen := np.flatnonzero(np.array(self._part_of) == i))
            },
            "bands": _bands(totals),
        }

    def _longest_records(self) -> list[dict[str, Any]]:
        prompts = count_prompts(self._tokenizer, (prompt for _, _, prompt, _ in self._longest), self._lengths)
        found = [
            (id_, prompt + self._length(response) + 1)
            for (_, id_, _, response), prompt in zip(self._longest, prompts, strict=True)
        ]
        ordered = sorted(found, key=lambda pair: (-pair[1], pair[0]))[: _ALWAYS // 4]
        return [{"id": id_, "tokens": tokens} for id_, tokens in ordered]


def _describe(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    percentiles = np.percentile(lengths, PERCENTILES, method="nearest").tolist()
    values: dict[str, float] = {f"p{p:02}": int(value) for p, value in zip(PERCENTILES, percentiles, strict=True)}
    return {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 2), **values, "max": int(lengths.max())}


def _sums(prompts: np.ndarray, responses: np.ndarray) -> dict[str, int]:
    return {
        "counted": len(prompts),
        "tokens": int((prompts + responses).sum()),
        "response_tokens": int(responses.sum()),
    }


def _bands(totals: np.ndarray) -> list[dict[str, int]]:
    """How many records have up to 16, 32, 64, ... tokens; a histogram that fits any data set."""
    if not len(totals):
        return []
    upper = [2**power for power in range(4, max(4, int(np.ceil(np.log2(totals.max())))) + 1)]
    places = np.searchsorted(upper, totals)
    return [{"up_to": limit, "records": int((places == i).sum())} for i, limit in enumerate(upper)]
