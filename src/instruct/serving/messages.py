"""Messages through the policy to the prompt format of training; roles that the template lacks are refused."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from instruct.core.records import Turn
from instruct.serving.policy import Policy, PolicyStream, Rule, filter_text
from instruct.serving.problems import Problem
from instruct.text.prompts import Piece, Template


@dataclass(frozen=True, kw_only=True)
class Said:
    """One message of a chat."""

    role: str
    content: str


def filter_prompt(policy: Policy | None, text: str) -> str:
    """A text for a model, after the policy; raises Problem if the policy blocks it."""
    passed, stream = filter_text(policy, text, "prompts")
    _refuse(stream.blocked)
    return passed


def filter_chat(policy: Policy | None, messages: Sequence[Said], input: str) -> tuple[list[Said], str]:
    """The messages and the input for the last one, after the policy; raises Problem if the policy blocks any of them.

    The model reads the input right after that message, so both are also filtered as one text.
    """
    said = [replace(one, content=filter_prompt(policy, one.content)) for one in messages]
    input = filter_prompt(policy, input)
    if said and input:
        both = PolicyStream(policy, "prompts")
        last, input = both.split(said[-1].content, input)
        _refuse(both.blocked)
        said[-1] = replace(said[-1], content=last)
    return said, input


def _refuse(blocked: Rule | None) -> None:
    if blocked:
        message = blocked.message or "this prompt is not allowed here"
        raise Problem(f"{message} (policy: {blocked.name})", code="policy_blocked", param="prompt")


def render_chat(template: Template, name: str, messages: Sequence[Said], input: str = "") -> list[Piece]:
    """The prompt of a chat in the template `name`; `input` is the data set's field, for the last message.

    Raises Problem for roles and turns that the template has no place for.
    """
    system, talk = "", list(messages)
    if talk and talk[0].role == "system" and template.before_system:
        system = talk.pop(0).content
    first = len(messages) - len(talk)
    if not talk:
        raise Problem("messages is empty; send a message of the role user", param="messages", code="empty_messages")
    for place, one in enumerate(talk):
        _check(template, name, one, place, first + place)
    if len(talk) % 2 == 0:
        raise Problem("the last message must have the role user", param="messages", code="unsupported_turns")
    turns = [Turn(talk[i].content, "", talk[i + 1].content) for i in range(0, len(talk) - 1, 2)]
    return template.prompt([*turns, Turn(talk[-1].content, input)], system)


def knows_turns(template: Template) -> bool:
    """Whether a chat may have more than one question."""
    return bool(template.between_turns)


def _check(template: Template, name: str, one: Said, place: int, index: int) -> None:
    if place and not knows_turns(template):
        raise Problem(
            f"the template {name} takes one question without earlier turns; send one message with the role user",
            param="messages",
            code="unsupported_turns",
        )
    if one.role not in ("user", "assistant"):
        where = "in this place" if one.role == "system" and template.before_system else f"in the template {name}"
        raise Problem(
            f"there is no role {one.role[:40]!r} {where}",
            param=f"messages[{index}].role",
            code="unsupported_role",
        )
    if one.role != ("assistant" if place % 2 else "user"):
        raise Problem(
            "messages must alternate between the roles user and assistant, user first",
            param=f"messages[{index}].role",
            code="unsupported_turns",
        )
    if not one.content.strip() and one.role == "user":
        raise Problem("the message is empty", param=f"messages[{index}].content", code="empty_message")
