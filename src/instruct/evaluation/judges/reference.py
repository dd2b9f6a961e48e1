"""The judge that needs no server: similarity to the reference answer, and honest about being only that."""

from collections.abc import Sequence

from instruct.evaluation.judges.base import Answers, Identity, Verdict
from instruct.evaluation.reference import compare


class ReferenceJudge:
    """Scores by similarity to the reference answer."""

    pairs = False

    @property
    def identity(self) -> Identity:
        """What it is, and what it is not."""
        return Identity(about={"judge": "reference", "score": "similarity to the reference answer"})

    def prepare(self, *groups: Answers, perhaps: Sequence[Answers] = ()) -> None:
        """Nothing can be missing."""

    def judge(self, answers: Answers) -> dict[str, list[Verdict]]:
        """Similarity from 0 to 100; there is always a score and never a reply."""
        return {
            system: [Verdict(score=compare(one.response, one.output).similarity, raw_reply="") for one in responses]
            for system, responses in answers.items()
        }
