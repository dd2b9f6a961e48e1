"""The results of augmentation methods: drafts of records, or the reason why there is none."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

from instruct.core.records import Example


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A new record without an id. `replaces` its parent if both would answer the same question differently."""

    method: str
    parent: Example | None
    instruction: str
    input: str
    output: str
    replaces: bool = False

    def as_example(self, taken: Container[str]) -> Example:
        """The record with its origin, its parent's group, and an id that is not `taken`."""
        parent = self.parent
        content = (self.method, parent.id if parent else "", self.instruction, self.input, self.output)
        digest = sha256("\x1f".join(content).encode()).hexdigest()[:12]
        id_ = next(name for i in count(1) if (name := f"{digest}-{i}" if i > 1 else digest) not in taken)
        return Example(
            id=id_,
            instruction=self.instruction,
            input=self.input,
            output=self.output,
            kind=parent.kind if parent else "",
            group=(parent.group or parent.id) if parent else id_,
            origin=f"augment:{self.method}",
            parent=parent.id if parent else "",
            system=parent.system if parent else "",
            history=parent.history if parent else (),
        )


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A record that a method could not make, with the reason in one word, used as the name of its count."""

    reason: str


Outcome = Draft | Skipped


def choose(examples: Sequence[Example], number: int, method: str, seed: int) -> list[Example]:
    """The first `number` examples by a hash of their ids, in file order; 0 takes all.

    Adding examples does not change the choice, as long as fewer than `number` of them come before an example.
    """
    if not number or number >= len(examples):
        return list(examples)
    rank = {example.id: sha256(f"{seed}\x1f{method}\x1f{example.id}".encode()).digest() for example in examples}
    chosen = set(sorted(rank, key=lambda id_: rank[id_])[:number])
    return [example for example in examples if example.id in chosen]
