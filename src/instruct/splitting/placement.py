"""Chooses the part of each record: groups stay together, and no record moves because others were appended.

Records are placed in file order, and each placement depends only on earlier records. So appending records does not
move earlier ones, with one exception that is reported: a record that joins groups in different parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

# A joined group takes the first of these: a record that was tested on never moves to train.
HELD_OUT_FIRST = ("test", "val", "train")
OF_ITS_KIND = 0.3
OF_ALL = 0.05


@dataclass(frozen=True, kw_only=True)
class Move:
    """Record `record` left its part because record `joined_by` joined its group to another."""

    record: int
    source: str
    target: str
    joined_by: int


def draw(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the text and the seed alone."""
    return int.from_bytes(sha256(f"{seed}\x1f{text}".encode()).digest()[:6], "big") / 2**48


class Shares:
    """Counts of records by part, and what each part still lacks of its share."""

    def __init__(self, fractions: Mapping[str, float]) -> None:
        self._fractions = fractions
        self._kinds: dict[str, dict[str, int]] = {}
        self._all = dict.fromkeys(fractions, 0)

    def add(self, kind: str, part: str, count: int = 1) -> None:
        """Count records of a kind in a part."""
        self._kinds.setdefault(kind, dict.fromkeys(self._fractions, 0))[part] += count
        self._all[part] += count

    def choose(self, kind: str, drawn: float, *, stratify: bool) -> str:
        """The part whose range contains the draw; the range of a part widens if it lags behind, by kind and in total.

        Without `stratify` the ranges are the fractions. With it the corrections are small, so that removing a record
        moves few others; they keep each kind within about one record of its share.
        """
        weights = dict(self._fractions)
        if stratify:
            self._correct(weights, self._all, OF_ALL)
            if kind:
                self._correct(weights, self._kinds.get(kind, {}), OF_ITS_KIND)
        left = drawn * sum(max(0.0, weight) for weight in weights.values())
        for part in HELD_OUT_FIRST:
            left -= max(0.0, weights[part])
            if left < 0:
                return part
        return max(weights, key=lambda part: weights[part])  # only if rounding left nothing for the last part

    def _correct(self, weights: dict[str, float], counts: Mapping[str, int], strength: float) -> None:
        total = sum(counts.values())
        for part in counts:
            weights[part] += strength * (total * self._fractions[part] - counts[part])


class Placer:
    """Places records one by one, each in the group that it is linked to."""

    def __init__(self, fractions: Mapping[str, float], *, stratify: bool) -> None:
        self._shares = Shares(fractions)
        self._stratify = stratify
        self._groups: list[int] = []  # for each record, the index of its group in the lists below
        self._parts: list[str] = []
        self._kinds: list[str] = []
        self._members: dict[int, list[int]] = {}  # only for groups of two or more
        self._dropped: set[int] = set()
        self.moved: list[Move] = []

    def place(self, kind: str, drawn: float, links: Sequence[int], *, dropped: bool = False) -> None:
        """Place the next record with the earlier ones that it is linked to; a dropped record does not count."""
        record = len(self._groups)
        self._kinds.append(kind)
        joined = {self._groups[link] for link in links}
        part = "" if joined else self._shares.choose(kind, drawn, stratify=self._stratify)
        self._groups.append(record)
        self._parts.append(part)
        if joined:
            part = self._merge(joined, record)
        if dropped:
            self._dropped.add(record)
        else:
            self._shares.add(kind, part)

    def part_of(self, record: int) -> str:
        return self._parts[self._groups[record]]

    def _merge(self, groups: set[int], record: int) -> str:
        """Merge several groups and the record that joins them; the most held-out part takes them all."""
        part = min((self._parts[group] for group in groups), key=HELD_OUT_FIRST.index)
        members = {group: self._members.pop(group, [group]) for group in groups}
        for group in sorted(groups):
            if self._parts[group] != part:
                self._move(members[group], self._parts[group], part, record)
        # The largest group absorbs the others, so that a record changes groups only a few times.
        largest = max(groups, key=lambda group: (len(members[group]), -group))
        newcomers = [record, *(one for group in groups if group != largest for one in members[group])]
        for one in newcomers:
            self._groups[one] = largest
        members[largest] += newcomers
        self._members[largest] = members[largest]
        self._parts[largest] = part
        return part

    def _move(self, members: Sequence[int], source: str, target: str, joined_by: int) -> None:
        for record in sorted(members):
            if record not in self._dropped:
                self._shares.add(self._kinds[record], source, -1)
                self._shares.add(self._kinds[record], target)
                self.moved.append(Move(record=record, source=source, target=target, joined_by=joined_by))
