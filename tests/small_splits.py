"""Splits in memory, without the files of the stage."""

from instruct.core.records import Example
from instruct.splitting.partition import SplitParams, divide, take_parts


def split_examples(examples: list[Example], params: SplitParams) -> dict[str, list[Example]]:
    return take_parts(examples, divide(examples, params))
