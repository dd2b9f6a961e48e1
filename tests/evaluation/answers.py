"""Answers, settings and judges written by hand, for tests of everything after generation."""

from typing import Any

from instruct.core.records import Response
from instruct.evaluation.judges.base import Answers, Identity, Verdict
from instruct.evaluation.settings import EvaluateParams
from instruct.servers.base import Reply, Request, ServerState


def answer(id: str, response: str, output: str = "Paris", **fields: Any) -> Response:
    values: dict[str, Any] = {
        "instruction": f"What is the capital of {id}?",
        "input": "",
        "kind": "facts",
        "stop_reason": "end_of_text",
        "prompt_tokens": 20,
        "response_tokens": 3,
    }
    return Response(**{**values, "id": id, "response": response, "output": output, **fields})


def evaluate_params(**fields: Any) -> EvaluateParams:
    values: dict[str, Any] = {
        "judges": ("reference",),
        "rubric": "score-0-100",
        "scoring": "text",
        "repeats": 1,
        "temperature": 0.0,
        "controls": 4,
        "allow_unfit": False,
        "resamples": 500,
        "seed": 123,
        "max_unscored": 0.05,
    }
    return EvaluateParams(**{**values, **fields})


class ScriptedJudge:
    """Replies in order; a number is a score, anything else a reply without one."""

    pairs = False

    def __init__(self, *replies: Any, identity: dict[str, str] | None = None) -> None:
        self.identity = Identity(about=identity or {"judge": "scripted"})
        self.asked: list[Response] = []
        self._replies = iter(replies)

    def prepare(self, *groups: Answers, perhaps=()) -> None:
        pass

    def judge(self, answers: Answers) -> dict[str, list[Verdict]]:
        return {system: [self._verdict(one) for one in responses] for system, responses in answers.items()}

    def _verdict(self, response: Response) -> Verdict:
        self.asked.append(response)
        reply = next(self._replies)
        scored = isinstance(reply, int | float)
        return Verdict(
            score=reply if scored else None, raw_reply="" if reply is None else str(reply),
            problem="" if scored else "no number", failed=0 if scored else 1,
        )  # fmt: skip


class ScriptedServer:
    """A server in this process: `reply` makes of each request a text or a whole reply."""

    workers = 1

    def __init__(self, reply, state: ServerState | None = None) -> None:
        self._reply = reply
        self._state = state or ServerState(where="here", model="scripted", reachable=True)
        self.asked: list[Request] = []
        self.checked: list[Request | None] = []
        self.identity = {"server": "scripted", "model": "scripted", "digest": "00ff"}

    def check(self, longest: Request | None = None) -> ServerState:
        self.checked.append(longest)
        return self._state

    def key(self, request: Request) -> str:
        return f"{hash(repr(request)) & (2**256 - 1):064x}"

    def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        reply = self._reply(request)
        return Reply(text=reply, stop="stop") if isinstance(reply, str) else reply

    def close(self) -> None:
        pass
