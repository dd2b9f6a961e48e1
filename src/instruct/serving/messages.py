"""Messages to the prompt that the model was trained and evaluated with; what the template does not know is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from instruct.serving.problems import Problem
from instruct.text.prompts import Template


@dataclass(frozen=True, kw_only=True)
class Said:
    """One message of a chat."""

    role: str
    content: str


def render_chat(template: Template, name: str, messages: Sequence[Said], input: str = "") -> str:
    """The prompt of a chat by the template called `name`; `input` is the data set's field of that name.

    Raises Problem for roles and turns that the template has no place for.
    """
    if not messages:
        raise Problem("messages is empty; send a message of the role user", param="messages", code="empty_messages")
    for place, one in enumerate(messages):
        if one.role != "user":
            raise Problem(
                f"the template {name} knows no role {one.role[:40]!r}; send one message of the role user",
                param=f"messages[{place}].role",
                code="unsupported_role",
            )
    if len(messages) > 1:
        raise Problem(
            f"the template {name} knows one turn, and there are {len(messages)} messages; send one",
            param="messages",
            code="unsupported_turns",
        )
    if not messages[0].content.strip():
        raise Problem("the message is empty", param="messages[0].content", code="empty_message")
    return template.render(messages[0].content, input)
