"""A language model behind a server as judge: prompts by a rubric, replies read by `parse`, nothing dropped."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, pstdev

from instruct.core.errors import JudgeError
from instruct.core.records import Response
from instruct.evaluation.judges.base import Answers, Identity, Verdict
from instruct.evaluation.judges.expected import TOP, expected_score
from instruct.evaluation.judges.parse import Choice, parse_choice, parse_score
from instruct.evaluation.rubrics import Rubric, prompt_hash
from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Request, Server
from instruct.servers.cache import ReplyCache
from instruct.servers.replies import writable
from instruct.text.prompts import Template

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How replies are asked for: so many for each prompt, and whether with token probabilities."""

    repeats: int
    temperature: float
    seed: int
    expected: bool


class ModelJudge(ABC):
    """What judging one response and judging two against each other have in common."""

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        rubric_name: str,
        rubric: Rubric,
        template: Template,
        asking: Asking,
        cache: ReplyCache | None,
    ) -> None:
        self.name, self.rubric = name, rubric
        self._server, self._template, self._asking, self._cache = server, template, asking, cache
        self._rubric_name = rubric_name

    @property
    def identity(self) -> Identity:
        """Server, model, digest and how it was asked. Connects."""
        asking = self._asking
        about = {
            "judge": self.name,
            "repeats": str(asking.repeats),
            "scoring": "expected" if asking.expected else "text",
            "temperature": f"{asking.temperature:g}",
            **self._server.identity,  # may hold another temperature
        }
        return Identity(about=about, rubric=self._rubric_name, rubric_sha256=self.rubric.sha256)

    @abstractmethod
    def prompts(self, answers: Answers) -> list[str]:
        """Every prompt that judging these answers takes, in the order of asking."""

    def prepare(self, *groups: Answers, perhaps: Sequence[Answers] = ()) -> None:
        """Raise JudgeError where the server, the model or the room for the longest prompt is missing.

        Nothing is looked at when all replies to `groups` are in the cache.
        """
        prompts = [prompt for answers in groups for prompt in self.prompts(answers)]
        if self._cache is not None:
            keys = {self._server.key(request) for request in self._requests(prompts)}
            if len(self._cache.get(keys)) == len(keys):
                return
        prompts += [prompt for answers in perhaps for prompt in self.prompts(answers)]
        longest = next(iter(self._requests([max(prompts, key=len)])))
        state = self._server.check(longest)
        if state.note:
            log.warning("%s: %s", self.name, state.note)
        if state.problem:
            hint = f"\nrun `{state.command}`" if state.command else ""
            raise JudgeError(f"{self.name}: {state.problem}{hint}")

    def _ask(self, prompts: Sequence[str]) -> list[list[Reply]]:
        requests = list(self._requests(prompts))
        replies = ask_all(
            self._server, requests, cache=self._cache, workers=self._server.workers, unit=f"{self.name} verdict"
        )
        repeats = self._asking.repeats
        return [replies[start : start + repeats] for start in range(0, len(replies), repeats)]

    def _requests(self, prompts: Iterable[str]) -> Iterable[Request]:
        asking = self._asking
        for prompt in prompts:
            for repeat in range(asking.repeats):
                yield Request(
                    messages=(("user", prompt),),
                    schema=self.rubric.schema,
                    max_tokens=self.rubric.max_tokens,
                    temperature=asking.temperature,
                    seed=asking.seed,
                    repeat=repeat,
                    top_logprobs=TOP if asking.expected else 0,
                )

    def _texts(self, response: Response) -> dict[str, str]:
        """The task as the models saw it, without the header of the response, and its reference answer."""
        return {"task": self._template.task(response.turns, response.system), "reference": response.output}


class ScoreJudge(ModelJudge):
    """Scores each response on the rubric's scale, told as 0 to 100."""

    pairs = False

    def prompts(self, answers: Answers) -> list[str]:
        return [
            self.rubric.render(self._texts(one) | {"response": one.response})
            for responses in answers.values()
            for one in responses
        ]

    def judge(self, answers: Answers) -> dict[str, list[Verdict]]:
        """A verdict on every response of every system, in order."""
        prompts = self.prompts(answers)
        verdicts = iter(
            [self._verdict(prompt, replies) for prompt, replies in zip(prompts, self._ask(prompts), strict=True)]
        )
        return {system: [next(verdicts) for _ in responses] for system, responses in answers.items()}

    def _verdict(self, prompt: str, replies: Sequence[Reply]) -> Verdict:
        read = [self._read(reply) for reply in replies]
        scores = [score for score, _ in read if score is not None]
        return Verdict(
            score=mean(scores) if scores else None,
            spread=pstdev(scores) if len(scores) > 1 else None,
            raw_reply=writable(replies[0].text),
            replies=tuple(writable(reply.text) for reply in replies) if len(replies) > 1 else (),
            failed=len(read) - len(scores),
            problem=next((problem for _, problem in read if problem), ""),
            prompt_sha256=prompt_hash(prompt),
        )

    def _read(self, reply: Reply) -> tuple[float | None, str]:
        """The score from 0 to 100 in one reply, or None and why there is none."""
        scale = self.rubric.scale
        if reply.problem:
            return None, reply.problem
        score = parse_score(reply.text, scale, reasoned=self.rubric.reasoned)
        if score is None:
            return None, f"no score from {scale.low} to {scale.high} in it"
        if not self._asking.expected:
            return scale.to_hundred(score), ""
        if reply.logprobs is None:
            return None, "the server gives no token probabilities; set evaluate.scoring: text"
        expected, problem = expected_score(reply, score, scale, reasoned=self.rubric.reasoned)
        return (None if expected is None else scale.to_hundred(expected)), problem


class PairJudge(ModelJudge):
    """Says which of two systems answered better, in both orders.

    A system's score is the share of orders that it won, 0 to 100, a tie being half; a judge that always prefers the
    first one gives 50 to both.
    """

    pairs = True

    def prompts(self, answers: Answers) -> list[str]:
        one, other = answers.values()
        prompts = []
        for first, second in zip(one, other, strict=True):
            for a, b in ((first, second), (second, first)):
                prompts.append(
                    self.rubric.render(self._texts(first) | {"response_a": a.response, "response_b": b.response})
                )
        return prompts

    def judge(self, answers: Answers) -> dict[str, list[Verdict]]:
        """Verdicts on both systems; the two scores of a record sum to 100."""
        prompts = self.prompts(answers)
        replies = self._ask(prompts)
        one, other = answers
        verdicts: dict[str, list[Verdict]] = {one: [], other: []}
        for place in range(0, len(prompts), 2):
            pair = self._verdicts(prompts[place : place + 2], replies[place], replies[place + 1])
            for system, verdict in zip((one, other), pair, strict=True):
                verdicts[system].append(verdict)
        return verdicts

    def _verdicts(
        self, prompts: Sequence[str], forward: Sequence[Reply], backward: Sequence[Reply]
    ) -> tuple[Verdict, Verdict]:
        wins, choices, problems = [], [], []
        for there, back in zip(forward, backward, strict=True):
            read = [_read_choice(there), _read_choice(back)]
            choices += [choice or "none" for choice, _ in read]
            problems += [problem for _, problem in read if problem]
            if read[0][0] is not None and read[1][0] is not None:
                wins.append((_share(read[0][0]) + 100.0 - _share(read[1][0])) / 2)
        raw = tuple(writable(reply.text) for both in zip(forward, backward, strict=True) for reply in both)
        return tuple(  # type: ignore[return-value]
            Verdict(
                score=mean(scores) if scores else None,
                spread=pstdev(scores) if len(scores) > 1 else None,
                raw_reply=raw[0],
                replies=raw,
                failed=len(forward) - len(wins),
                problem=problems[0] if problems else "",
                prompt_sha256=prompt_hash("\x1e".join(prompts)),
                choices=tuple(choices),
            )
            for scores in (wins, [100.0 - win for win in wins])
        )


def _share(choice: Choice) -> float:
    return {"A": 100.0, "tie": 50.0, "B": 0.0}[choice]


def _read_choice(reply: Reply) -> tuple[Choice | None, str]:
    if reply.problem:
        return None, reply.problem
    choice = parse_choice(reply.text)
    return choice, "" if choice else "no choice of A, B or tie in it"
