"""One streamed answer at a time, in this process: shared by `instruct ask` and `instruct chat`; no web stack."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from instruct.core.errors import DataError, InstructError
from instruct.generation.rows import StopReason
from instruct.generation.settings import GenerateParams
from instruct.serving.lanes import Event, Job, Lane, lane_for, lanes_of
from instruct.serving.messages import Said, filter_chat, render_chat
from instruct.serving.policy import Policy, PolicyStream
from instruct.serving.stream import TextStream
from instruct.serving.systems import System
from instruct.text.encoding import encode_prompt


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How one answer is sampled."""

    max_tokens: int
    temperature: float
    seed: int


class Talker:
    """A system that answers one question at a time; it keeps what the engine computed of the template.

    `cut` says why the last answer is not whole, in words for the user; it is empty if the model ended the answer.
    `blocked` says whether the policy ended it.
    """

    def __init__(self, system: System) -> None:
        self.system, self.cut, self.blocked = system, "", False
        self._lanes: list[Lane] = []

    def say(
        self, messages: Sequence[Said], manner: Manner, *, input: str = "", policy: Policy | None = None
    ) -> Iterator[str]:
        """The answer piece by piece; raises DataError if the prompt leaves no room for one."""
        self.cut, self.blocked = "", False
        system = self.system
        _check_utf8(*(one.content for one in messages), input)
        messages, input = filter_chat(policy, messages, input)
        prompt = render_chat(system.template, system.template_name, messages, input)
        ids, most = encode_prompt(system.tokenizer, prompt), system.model.block_size
        if len(ids) >= most:
            cure = "shorten it, or begin a new conversation" if len(messages) > 1 else "shorten it"
            raise DataError(f"the prompt has {len(ids)} tokens, and the model reads at most {most}; {cure}")
        params = _params(system, manner, most - len(ids))
        filtered = PolicyStream(policy, "answers")
        reason = yield from self._stream(ids, params, manner.seed, filtered)
        self.cut = _why_cut(reason, params.max_new_tokens, manner)
        if rule := filtered.blocked:
            self.cut, self.blocked = f"{rule.message or 'this answer is not allowed here'} (policy: {rule.name})", True

    def _stream(
        self, ids: Sequence[int], params: GenerateParams, seed: int, filtered: PolicyStream
    ) -> Generator[str, None, StopReason | None]:
        """Yield the text; gives why the answer ended, or None if the policy ended it."""
        system, stops = self.system, self.system.template.stop_strings
        lanes = self._lanes or lanes_of(system, slots=1, cache_tokens=2 * system.model.block_size)
        self._lanes = []  # an answer that is broken off leaves its lane in use
        lane = lane_for(lanes, ids)
        stream = TextStream(system.tokenizer, stops, strip=True)
        lane.waiting.append(
            Job(system=system.name, ids=ids, params=params, stop_strings=stops, deliver=_nobody, seed=seed)
        )
        reason: StopReason | None = None
        while lane.busy and not filtered.blocked:
            for _, event in lane.turn():
                reason = event.reason
                yield _text_of(event, stream, filtered)
        if filtered.blocked:
            return None
        self._lanes = lanes
        return reason


def _params(system: System, manner: Manner, room: int) -> GenerateParams:
    wanted = min(manner.max_tokens, room)
    return replace(system.params, max_new_tokens=wanted, temperature=manner.temperature, num_samples=1)


def _why_cut(reason: StopReason | None, most: int, manner: Manner) -> str:
    if reason == "repetition":
        return "the model repeated itself, so the answer was ended there"
    if reason != "length":
        return ""
    if most < manner.max_tokens:
        return (
            f"the answer is cut after {most} tokens, where the model's context ends; a shorter prompt leaves more room"
        )
    return f"the answer is cut after {most} tokens: raise serve.max_tokens, or in a chat /set max_tokens"


def _nobody(_: Event) -> None:
    """No thread of an engine delivers here: `turn` gives the events."""


def _text_of(event: Event, stream: TextStream, filtered: PolicyStream) -> str:
    if event.error:
        raise InstructError(event.error)
    if event.reason is None:
        return filtered.push(stream.push(event.tokens))
    stream.push_only(event.tokens)
    return filtered.push(stream.finish(event.reason), final=True)


def _check_utf8(*texts: str) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise DataError("the question holds bytes that are not UTF-8; send it as UTF-8") from None
