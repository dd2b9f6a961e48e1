"""What a record says before its question: the system prompt and the turns of a chat that came earlier."""

from instruct.core.records import Example


def earlier_turns(record: Example) -> list[tuple[str, str]]:
    """Who said what before the last question, in order; empty for a record of one question."""
    said = [("system", record.system)] if record.system else []
    for turn in record.history:
        asked = "\n".join(part for part in (turn.instruction, turn.input) if part)
        said += [("user", asked), ("assistant", turn.output)]
    return said


def name_earlier(record: Example) -> str:
    """What `earlier_turns` holds, in words: `system prompt and 2 earlier turns`."""
    turns = len(record.history)
    parts = ["system prompt"] * bool(record.system) + [f"{turns} earlier turn{'s' * (turns != 1)}"] * bool(turns)
    return " and ".join(parts)
