"""The judge that needs no server: similarity to the reference answer, and honest about being only that."""

from instruct.evaluation.judges.base import Verdict
from instruct.evaluation.reference import compare
from instruct.records import Response


class ReferenceJudge:
    """Scores by likeness to the reference answer."""

    def __init__(self) -> None:
        self.identity = {"judge": "reference", "score": "similarity to the reference answer"}

    def judge(self, response: Response) -> Verdict:
        """Similarity from 0 to 100; there is always a score and never a reply."""
        return Verdict(score=compare(response.response, response.output).similarity, raw_reply="")
