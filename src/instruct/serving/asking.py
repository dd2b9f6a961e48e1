"""Turn a checked request into jobs for the engine, and the engine's events into choices with texts."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from instruct.core.errors import DataError, ParamsError
from instruct.generation.rows import Score, StopReason
from instruct.generation.settings import GenerateParams
from instruct.serving.lanes import Event, Job
from instruct.serving.loop import EngineLoop, TooBusy
from instruct.serving.messages import filter_chat, filter_prompt, render_chat
from instruct.serving.policy import Policy, PolicyStream, Rule
from instruct.serving.problems import Problem
from instruct.serving.requests import ChatRequest, CompletionRequest, Sampling
from instruct.serving.settings import ServeParams
from instruct.serving.stream import TextStream
from instruct.serving.systems import System
from instruct.text.encoding import Prompt, encode_prompt
from instruct.text.prompts import as_text


@dataclass(kw_only=True, eq=False)
class Choice:
    """One answer as it grows."""

    index: int
    ids: Sequence[int]
    prompt: str
    stream: TextStream
    policy: PolicyStream
    echo: bool = False
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    prompt_scores: tuple[Score, ...] = ()
    reason: str | None = None

    def take(self, event: Event) -> str:
        """Add the new tokens and return the text that is now final; raises Problem if the engine failed."""
        if event.error:
            raise Problem(event.error, status=500, code="engine_error")
        self.tokens += event.tokens
        self.scores += event.scores
        self.prompt_scores = event.prompt_scores or self.prompt_scores
        said = "" if event.reason else self.stream.push(event.tokens)
        if event.reason:
            self.stream.push_only(event.tokens)
            said = self.stream.finish(event.reason)
            self.reason = finish_reason(event.reason)
        new = self.policy.push(said, final=bool(event.reason))
        if self.policy.blocked:
            self.reason = "content_filter"
        self.text += new
        return new


def finish_reason(reason: StopReason) -> str:
    """The reason in OpenAI's words."""
    return "length" if reason in ("length", "repetition") else "stop"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where requests arrive: the systems, the limits, and the engine that answers."""

    systems: dict[str, System]
    params: ServeParams
    policy: Policy | None
    engine: EngineLoop

    def system(self, name: str) -> System:
        """The system that a request names as its model."""
        if name not in self.systems:
            raise Problem(
                f"there is no model {name[:80]!r}; the models are {', '.join(self.systems)}",
                param="model",
                code="model_not_found",
                status=404,
            )
        return self.systems[name]

    def chat(self, request: ChatRequest) -> "Asked":
        """The jobs of a chat."""
        system = self.system(request.model)
        said, input = filter_chat(self.policy, [one.said() for one in request.messages], request.input)
        prompt = render_chat(system.template, system.template_name, said, input)
        limit = request.max_completion_tokens or request.max_tokens
        if request.max_completion_tokens and request.max_tokens:
            raise Problem("give max_tokens or max_completion_tokens, not both", param="max_tokens")
        if request.max_tokens == 0:
            raise Problem("max_tokens must be at least 1", param="max_tokens")
        # An end token that does not end the answer would end it as a stop string of the template.
        ends = set(map(system.tokenizer.spell, system.tokenizer.stop_ids)) if request.ignore_eos else set()
        stops = [*(one for one in system.template.stop_strings if one not in ends), *request.stops]
        return self._ask(
            system,
            request,
            [as_text(prompt)],
            [self.encode(system, prompt, "messages")],
            "messages",
            limit,
            stops,
            strip=True,
            best=request.best,
        )

    def complete(self, request: CompletionRequest) -> "Asked":
        """The jobs of a completion."""
        system = self.system(request.model)
        prompts = [filter_prompt(self.policy, one) if isinstance(one, str) else one for one in request.prompts]
        if not prompts:
            raise Problem("prompt is empty", param="prompt")
        if request.max_tokens == 0 and not request.echo:
            raise Problem("max_tokens must be at least 1 without echo", param="max_tokens")
        if self.policy and any(not isinstance(one, str) for one in prompts):
            raise Problem("serve.policy is on and cannot filter token ids; send text", param="prompt")
        ids = [self.encode(system, one, "prompt") for one in prompts]
        texts = [one if isinstance(one, str) else system.tokenizer.decode(one) for one in prompts]
        return self._ask(
            system,
            request,
            texts,
            ids,
            "prompt",
            request.max_tokens,
            request.stops,
            strip=False,
            best=request.logprobs,
            echo=bool(request.echo),
        )

    def encode(self, system: System, prompt: Prompt | list[int], param: str) -> list[int]:
        """The token ids of a prompt, which may already be token ids."""
        known = [one for one in prompt if isinstance(one, int)]
        try:
            ids = known or encode_prompt(system.tokenizer, cast(Prompt, prompt))
        except DataError as error:
            raise Problem(str(error), param=param, code="unspellable") from None
        if not ids:
            raise Problem("the prompt has no tokens", param=param, code="empty_prompt")
        if max(ids) >= system.tokenizer.vocab_size:
            raise Problem(
                f"token id {max(ids)} is out of range: the vocabulary has {system.tokenizer.vocab_size} tokens",
                param=param,
            )
        return ids

    def room(self, system: System) -> int:
        """The most tokens that prompt and answer may have together."""
        return min(system.model.block_size, self.params.cache_tokens)

    def _ask(
        self,
        system: System,
        request: Sampling,
        prompts: Sequence[str],
        encoded: Sequence[Sequence[int]],
        param: str,
        limit: int | None,
        stops: Sequence[str],
        *,
        strip: bool,
        best: int | None,
        echo: bool = False,
    ) -> "Asked":
        if request.idle:
            name, needed = request.idle
            raise Problem(f"{name} has no effect without {needed}: true", param=name)
        count = request.n or 1
        if count * len(prompts) > self.params.max_choices:
            raise Problem(
                f"{count * len(prompts)} answers requested; serve.max_choices allows {self.params.max_choices}",
                param="n",
            )
        if self.policy and (best is not None):
            raise Problem(
                "serve.policy is on, and probabilities would reveal what it removes; leave out logprobs",
                param="logprobs",
            )
        asked = Asked(self.engine, system)
        seed = secrets.randbits(62) if request.seed is None else request.seed
        for place, (prompt, ids) in enumerate(zip(prompts, encoded, strict=True)):
            params = self._settings(system, request, ids, limit, param)
            score_only = limit == 0
            for repeat in range(count):
                asked.add(
                    Choice(
                        index=place * count + repeat,
                        ids=ids,
                        prompt=prompt,
                        stream=TextStream(system.tokenizer, stops, strip=strip),
                        policy=PolicyStream(self.policy, "answers", before=prompt if echo else ""),
                        echo=echo,
                    ),
                    seed=seed,
                    params=params,
                    endless=bool(request.ignore_eos),
                    stop_strings=tuple(stops),
                    name=str(repeat),
                    best=best,
                    echo=score_only or (echo and best is not None),  # of no new token the prompt's scores are the news
                    score_only=score_only,
                )
        return asked

    def _settings(
        self, system: System, request: Sampling, ids: Sequence[int], limit: int | None, param: str
    ) -> GenerateParams:
        room = self.room(system)
        wanted = min(self.params.max_tokens, room - len(ids)) if limit is None else limit
        if len(ids) + max(wanted, 1 if limit is None else 0) > room or (wanted < 1 and limit is None):
            answer = limit if limit is not None else 1
            raise Problem(
                f"This model's maximum context length is {room} tokens. However, you requested {len(ids) + answer} "
                f"tokens ({len(ids)} in the {param}, {answer} in the completion). Shorten one of them.",
                param=param,
                code="context_length_exceeded",
            )
        given: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        try:
            return replace(
                system.params,
                max_new_tokens=max(wanted, 1),
                num_samples=1,
                **{name: value for name, value in given.items() if value is not None},
            )
        except ParamsError as error:
            raise Problem(str(error)) from None


class Asked:
    """The answers to one request, as they arrive; closing it frees their slots."""

    def __init__(self, engine: EngineLoop, system: System) -> None:
        self._engine, self.system = engine, system
        self.choices: list[Choice] = []
        self._jobs: list[Job] = []
        self._events: asyncio.Queue[tuple[Choice, Event]] = asyncio.Queue()

    def add(self, choice: Choice, **job: object) -> None:
        """Ask for one more answer."""

        def deliver(event: Event) -> None:
            self._events.put_nowait((choice, event))

        self.choices.append(choice)
        self._jobs.append(Job(system=self.system.name, ids=choice.ids, deliver=deliver, **job))  # type: ignore[arg-type]

    def begin(self) -> None:
        """Hand the jobs to the engine; raises Problem if too many are waiting, or nobody would answer."""
        if not self._engine.alive:
            raise Problem("the engine has stopped; start the server again", status=503, code="engine_error")
        try:
            self._engine.submit(self._jobs)
        except TooBusy as error:
            raise Problem(f"{error}; try again later", status=429, kind="rate_limit_error", code="too_busy") from None

    async def news(self) -> AsyncIterator[tuple[Choice, str, Event]]:
        """Each answer's next text, until all have ended."""
        left = len(self._jobs)
        try:
            while left:
                choice, event = await self._events.get()
                if event.reason or event.error:
                    left -= 1
                if choice.reason is not None:  # the policy ended it; the engine reports it later
                    continue
                yield choice, choice.take(event), event
                if choice.policy.blocked:
                    self._jobs[choice.index].cancelled = True
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Free the slots of unfinished answers."""
        for job in self._jobs:
            job.cancelled = True

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of all prompts, each counted once, and of all answers."""
        prompts = {id(one.ids): len(one.ids) for one in self.choices}
        prompt, answer = sum(prompts.values()), sum(len(one.tokens) for one in self.choices)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def told(rules: Sequence[Rule]) -> list[dict[str, str]]:
    """The rules that applied, for the client."""
    return [{"name": rule.name, "action": rule.action, "message": rule.message} for rule in rules]
