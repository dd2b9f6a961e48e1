"""Checks a data set record by record in one pass and reports the findings."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from instruct.core.records import Example
from instruct.quality.answers import find_in_answer
from instruct.quality.contradictions import Contradictions
from instruct.quality.encodings import find_in_characters
from instruct.quality.formatting import find_markers, find_unspellable, missing_bytes
from instruct.quality.hits import Hit
from instruct.quality.languages import find_in_languages, find_in_scripts
from instruct.quality.lengths import Lengths
from instruct.quality.personal import find_personal
from instruct.quality.settings import FINDINGS, Gate, QualityParams
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer

_NAMES = 10_000  # distinct kinds or first words with their own count; later ones count as others
_SHOWN = 100
OTHERS = "(others)"


class QualityCheck:
    """Takes records one by one; `report` sums up the findings.

    Holds the id and two hashes of each record, `listed` records per finding, and `token_sample` lengths at most.
    Without a tokenizer there are no lengths and no check for `unspellable`.
    """

    def __init__(
        self, params: QualityParams, *, template: Template | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        self.params = params
        self._records: Counter[str] = Counter()
        self._found: Counter[tuple[str, str]] = Counter()
        self._listed: dict[str, list[dict[str, Any]]] = {name: [] for name in FINDINGS}
        self._kinds: Counter[str] = Counter()
        self._first_words: Counter[str] = Counter()
        self._languages: Counter[str] = Counter()
        self._contradictions = Contradictions()
        self._parts: list[tuple[str, int]] = []
        self._tokenizer = tokenizer
        self._missing = missing_bytes(tokenizer) if tokenizer else frozenset()
        self._lengths = Lengths(tokenizer, template, params.token_sample) if tokenizer and template else None

    def add(self, example: Example, part: str = "", index: int | None = None) -> None:
        """Check one record; each `part` (train, val, test) has its own counts, `index` is the index in its file."""
        if not self._parts or self._parts[-1][0] != part:
            self._parts.append((part, self._records.total()))
        place = self._records[part] if index is None else index
        self._records[part] += 1
        _count(self._kinds, example.kind)
        _count(self._first_words, (example.instruction.split(None, 1) or [""])[0].strip('"“.,:').lower())
        seen: set[str] = set()
        for hit in self._hits(example):
            if hit.finding not in seen:
                seen.add(hit.finding)
                self._found[hit.finding, part] += 1
                self._list(hit, example.id, part, place)
        self._contradictions.add(example)
        if self._lengths:
            self._lengths.add(example, part)

    def _hits(self, example: Example) -> Iterator[Hit]:
        """The findings in a record's last turn, in those before it, and in its system prompt."""
        language, mixed = find_in_languages(example)
        self._languages[language] += 1
        yield from self._hits_in(example)
        yield from filter(None, [mixed])
        for i, turn in enumerate(example.history):
            view = replace(example, **turn._asdict())
            found = [*self._hits_in(view), *filter(None, [find_in_languages(view)[1]])]
            yield from (replace(hit, field=f"history[{i}].{hit.field}") for hit in found)
        if example.system:
            found = list(self._hits_in(replace(example, instruction=example.system)))
            yield from (replace(hit, field="system") for hit in found if hit.field == "instruction")

    def _hits_in(self, example: Example) -> Iterator[Hit]:
        """The findings in instruction, input and output."""
        yield from find_in_answer(example)
        ascii_only = example.instruction.isascii() and example.input.isascii() and example.output.isascii()
        yield from find_in_characters(example, ascii_only)
        if not ascii_only:
            yield from find_in_scripts(example)
        yield from find_markers(example)
        yield from find_personal(example)
        if self._tokenizer and self._missing:
            yield from find_unspellable(example, self._tokenizer, self._missing)

    def _list(self, hit: Hit, id_: str, part: str, index: int) -> None:
        listed = self._listed[hit.finding]
        if len(listed) < self.params.listed:
            listed.append({"id": id_, "part": part, "index": index, "field": hit.field, "what": hit.what})

    def report(self) -> dict[str, Any]:
        """metrics/data.json: records, findings with their gates, kinds, languages and lengths.

        Shares are of all records.
        """
        total = self._records.total()
        found, listed = Counter(self._found), dict(self._listed)
        found_here, listed["contradictory_answers"] = self._contradictory()
        found += found_here
        findings = {name: self._finding(name, gate, found, listed[name]) for name, gate in self.params.gates}
        if not self._missing and not self._tokenizer:
            del findings["unspellable"]
        over = [finding["action"] for finding in findings.values() if finding["over"]]
        report: dict[str, Any] = {
            "records": total,
            "parts": {part: count for part, count in self._records.items() if part},
            "gates": {"failed": over.count("fail"), "warned": over.count("warn")},
            "findings": findings,
            "languages": {name: _entry(count, total) for name, count in self._languages.most_common(_SHOWN)},
            "kinds": _shares(self._kinds, total) if set(self._kinds) - {""} else [],
            "first_words": _shares(self._first_words, total)[:20],
        }
        if self._lengths:
            report["tokens"] = self._lengths.report(total)
        return report

    def _finding(
        self, name: str, gate: Gate, found: Counter[tuple[str, str]], listed: list[dict[str, Any]]
    ) -> dict[str, Any]:
        parts = {part: found[name, part] for part in self._records if part}
        count = sum(found[name, part] for part in self._records)
        entry = _entry(count, self._records.total())
        over = count > gate.max_share * self._records.total()
        return {**entry, **asdict(gate), "over": int(over), "parts": parts, "records": listed}

    def _contradictory(self) -> tuple[Counter[tuple[str, str]], list[dict[str, Any]]]:
        """All records of prompts with several answers, counted by part, and the first of them."""
        found: Counter[tuple[str, str]] = Counter()
        listed: list[dict[str, Any]] = []
        for places in self._contradictions.groups():
            for place in places:
                found["contradictory_answers", self._part_at(place)[0]] += 1
            if len(listed) < self.params.listed:
                listed.append(self._contradiction(places, self._contradictions.answers_of(places)))
        return found, listed

    def _contradiction(self, places: list[int], answers: int) -> dict[str, Any]:
        part, start = self._part_at(places[0])
        others = [self._contradictions.ids[place] for place in places[1:]]
        shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        what = f"is one of {answers} answers to one prompt; the others: {shown}"
        id_ = self._contradictions.ids[places[0]]
        return {"id": id_, "part": part, "index": places[0] - start, "field": "output", "what": what}

    def _part_at(self, place: int) -> tuple[str, int]:
        """The part of record number `place`, and the number of that part's first record."""
        return next((part, start) for part, start in reversed(self._parts) if start <= place)


def _count(counts: Counter[str], name: str) -> None:
    counts[name if name in counts or len(counts) < _NAMES else OTHERS] += 1


def _entry(count: int, total: int) -> dict[str, Any]:
    return {"count": count, "share": round(count / total, 6) if total else 0.0}


def _shares(counts: Counter[str], total: int) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [{"name": name or "(none)", **_entry(count, total)} for name, count in ordered[:_SHOWN]]
    rest = sum(count for _, count in ordered[_SHOWN:])
    return [*shown, {"name": OTHERS, **_entry(rest, total)}] if rest else shown
