"""The records of a file all of which are good."""

from instruct.core.errors import DataError
from instruct.core.records import problem_lines
from instruct.formats.columns import USUAL
from instruct.formats.rows import check_rows


def read_rows(path, columns=USUAL):
    examples, problems = check_rows(path, columns)
    if problems:
        raise DataError("\n".join(problem_lines(problems)))
    return examples
