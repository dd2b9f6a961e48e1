"""Links between records that are not near-duplicates: those that the file names, and turns that chats share.

Training may learn every turn of a chat, a question and its answer, and the test asks the last one of a record. So chats
go together with the records that hold their last turn, or whose last turn they hold. As with near-duplicates, a link
never depends on a record after both of its ends.
"""

from collections import defaultdict
from collections.abc import Container, Sequence
from hashlib import sha256
from typing import TypeVar

import numpy as np

from instruct.core.held_out import normalise
from instruct.core.records import Example, Turn
from instruct.splitting.near_duplicates import NO_LINKS, Links

FEW = 8
ONE_IN = 50
P = TypeVar("P")


def find_relatives(examples: Sequence[Example]) -> tuple[Links, list[int]]:
    """Links from records to their parents and within groups of the file; and the records without their parent."""
    children = {i: example.parent for i, example in enumerate(examples) if example.parent}
    numbers = {example.id: i for i, example in enumerate(examples)} if children else {}
    links = [(numbers[parent], child) for child, parent in children.items() if parent in numbers]
    first: dict[str, int] = {}
    links += [(first.setdefault(e.group, i), i) for i, e in enumerate(examples) if e.group]
    found = [sorted(link) for link in links if link[0] != link[1]]
    orphans = [child for child, parent in children.items() if parent not in numbers]
    return np.array(found, np.int64).reshape(-1, 2), orphans


def link_turns(examples: Sequence[Example], left_out: Container[int] = ()) -> Links:
    """Links between the records that hold one turn, if a chat among them ends with it, or a single question is it.

    Thanks must not join all chats: a turn that FEW earlier records hold, and one in ONE_IN of them, links no more.
    """
    if not any(one.history for one in examples):
        return NO_LINKS
    holders: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
    for record, one in enumerate(examples):
        keys = _keys(one) if record not in left_out else []
        for key in dict.fromkeys(keys):
            kind = "alone" if not one.history else "last" if key == keys[-1] else "earlier"
            holders[key].append((record, kind))
    links: list[tuple[int, int]] = []
    for those in holders.values():
        apart, kinds = list[int](), set[str]()
        for place, (record, kind) in enumerate(those):
            if place >= FEW and place * ONE_IN >= record:
                continue
            # Two records that both hold it before their last turn, or of one question each, share no test question.
            joins = kinds and (kind == "last" or "last" in kinds or kinds != {kind})
            links += [(earlier, record) for earlier in apart] if joins else []
            apart = apart[:1] if joins else [*apart, record]
            kinds.add(kind)
    return np.array(links, np.int64).reshape(-1, 2)


def find_ends(examples: Sequence[Example], places: Sequence[P]) -> list[set[P]]:
    """For each record, the places that hold its last turn; for a record of one question, only those of chats."""
    if not any(one.history for one in examples):
        return [set() for _ in examples]
    keys = [_keys(one) for one in examples]
    chats: dict[bytes, set[P]] = {those[-1]: set() for those in keys}
    single: dict[bytes, set[P]] = {key: set() for key in chats}
    for one, those, place in zip(examples, keys, places, strict=True):
        held = chats if one.history else single
        for key in those:
            if key in held:
                held[key].add(place)
    return [
        chats[those[-1]] | single[those[-1]] if one.history else chats[those[-1]]
        for one, those in zip(examples, keys, strict=True)
    ]


def _keys(one: Example) -> list[bytes]:
    """A number for each turn of a record, equal if question and answer differ only as `normalise` allows."""
    return [_key(turn) for turn in one.turns]


def _key(turn: Turn) -> bytes:
    asked = normalise(f"{turn.instruction}\n{turn.input}")
    return sha256(f"{asked}\x1f{normalise(turn.output)}".encode()).digest()[:16]
