"""What a record says before its question, in words."""

from instruct.core.records import Example


def name_earlier(record: Example) -> str:
    """What `earlier_turns` gives of it, such as `system prompt and 2 earlier turns`."""
    turns = len(record.history)
    parts = ["system prompt"] * bool(record.system) + [f"{turns} earlier turn{'s' * (turns != 1)}"] * bool(turns)
    return " and ".join(parts)
