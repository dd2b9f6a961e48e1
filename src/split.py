"""Stage 1 · split: the data set → train, val and test.

python src/split.py data/instructions.json data/split metrics/split.json
"""

import logging
from pathlib import Path

from instruct.errors import DataError
from instruct.files import write_json
from instruct.formats.rows import check_rows
from instruct.params import load_params
from instruct.records import write_records
from instruct.splitting.partition import SplitParams, split_examples
from instruct.stage import run_stage

log = logging.getLogger(__name__)


def main(data: Path, split: Path, metrics: Path) -> None:
    """Validate every record, divide the good ones, and count what happened to all."""
    params = load_params("split", SplitParams)
    examples, problems = check_rows(data, params.columns)
    lines = [line for found in problems.values() for line in found]
    if problems and params.invalid == "raise":
        raise DataError("\n".join([*lines, f"{len(problems)} bad records; mend them, or set split.invalid: drop"]))
    for line in lines:
        log.info("dropped %s", line)
    parts = split_examples(examples, params)
    for name, part in parts.items():
        write_records(split / f"{name}.json", part)
    counts = {name: len(part) for name, part in parts.items()}
    kinds = len({example.kind for example in examples if example.kind})
    write_json(
        metrics,
        {
            "read": len(examples) + len(problems),
            "kept": len(examples),
            "refused": len(problems),
            "kinds": kinds,
            **counts,
        },
    )
    log.info("%s: %d records kept, %d refused: %s", data, len(examples), len(problems), counts)


if __name__ == "__main__":
    run_stage(main)
