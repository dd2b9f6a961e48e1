"""Which records a model may rewrite, and what it is shown of them."""

from dataclasses import replace

import pytest

from instruct.augmentation.draft import Skipped
from instruct.augmentation.rewriting import REWRITINGS, rewrite
from instruct.core.records import Example, Turn
from instruct.servers.base import Reply

ALONE = Example(id="a", instruction="Name the capital of Peru.", input="", output="It is Lima.")


@pytest.mark.parametrize("name", ["reflect_instruction", "reflect_answer"])
def test_a_question_is_not_judged_without_what_was_said_before_it(name):
    """Its right answer may be in a turn that the model would not see."""
    chats = [
        replace(ALONE, id="b", history=(Turn("My name is Ana.", "", "Hello Ana!"),)),
        replace(ALONE, id="c", system="You are a pirate."),
    ]
    asked = []

    def ask(requests):
        asked.extend(requests)
        return [Reply(text='{"instruction": "Where is Lima?", "output": "In Peru."}')] * len(requests)

    outcomes = rewrite(REWRITINGS[name], [ALONE, *chats], ask, 50, 1)
    assert len(asked) == 1
    assert outcomes.count(Skipped(reason="unsuitable")) == 2
