"""One streamed answer at a time, in this process: shared by `instruct ask` and `instruct chat`; no web stack."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from instruct.core.errors import DataError, InstructError
from instruct.generation.settings import GenerateParams
from instruct.serving.lanes import Event, Job, lane_for, lanes_of
from instruct.serving.messages import Said, render_chat
from instruct.serving.policy import Policy, PolicyStream, filter_text
from instruct.serving.stream import TextStream
from instruct.serving.systems import System
from instruct.text.encoding import encode_prompt


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How one answer is sampled."""

    max_tokens: int
    temperature: float
    seed: int


def say(
    system: System, messages: Sequence[Said], manner: Manner, *, input: str = "", policy: Policy | None = None
) -> Iterator[str]:
    """The answer piece by piece; raises DataError if the prompt leaves no room for one."""
    messages = [replace(one, content=_passed(policy, one.content)) for one in messages]
    ids = encode_prompt(
        system.tokenizer,
        render_chat(system.template, system.template_name, messages, _passed(policy, input)),
    )
    room = system.model.block_size - len(ids)
    if room < 1:
        raise DataError(
            f"the prompt has {len(ids)} tokens, and the model reads at most {system.model.block_size}; shorten it"
        )
    yield from _stream(system, ids, _params(system, manner, room), manner.seed, policy)


def _params(system: System, manner: Manner, room: int) -> GenerateParams:
    wanted = min(manner.max_tokens, room)
    return replace(system.params, max_new_tokens=wanted, temperature=manner.temperature, num_samples=1)


def _stream(
    system: System, ids: Sequence[int], params: GenerateParams, seed: int, policy: Policy | None
) -> Iterator[str]:
    lane = lane_for(lanes_of(system, slots=1, cache_tokens=2 * system.model.block_size), ids)
    events: list[Event] = []
    stops = system.template.stop_strings
    job = Job(system=system.name, ids=ids, params=params, stop_strings=stops, deliver=events.append, seed=seed)
    stream, filtered = TextStream(system.tokenizer, stops, strip=True), PolicyStream(policy, "answers")
    lane.waiting.append(job)
    while lane.busy and not filtered.blocked:
        for _, event in lane.turn():
            if event.error:
                raise InstructError(event.error)
            if event.reason is None:
                yield filtered.push(stream.push(event.tokens))
                continue
            stream.push_only(event.tokens)
            yield filtered.push(stream.finish(event.reason), final=True)
    if filtered.blocked:
        yield f" [{filtered.blocked.message or 'blocked'}]"


def _passed(policy: Policy | None, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("the question holds bytes that are not UTF-8; send it as UTF-8") from None
    passed, stream = filter_text(policy, text, "prompts")
    if stream.blocked:
        raise DataError(
            f"{stream.blocked.message or 'this prompt is not allowed here'} (policy: {stream.blocked.name})"
        )
    return passed
