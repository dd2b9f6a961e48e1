"""Stage 1 · split: the data set → train, val and test.

python src/split.py data/instructions.json data/split metrics/split.json
"""

import logging
from dataclasses import replace
from pathlib import Path

from instruct.errors import DataError
from instruct.files import write_json
from instruct.formats.rows import check_rows
from instruct.params import load_params
from instruct.records import write_records
from instruct.splitting.index import RecordIndex
from instruct.splitting.partition import PARTS, SplitParams, divide
from instruct.splitting.summary import find_warnings, summarise
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
    index = RecordIndex(params.duplicates.on, params.seed)
    for example in examples:
        index.add(example)
    division = divide(index, params)
    for part in PARTS:
        chosen = (record for record in division.order if division.parts[record] == part)
        write_records(
            split / f"{part}.json",
            (replace(examples[record], group=index.ids[division.groups[record]]) for record in chosen),
        )
    counts = summarise(division, index.kinds, params, refused=len(problems))
    write_json(metrics, counts)
    for line in find_warnings(division, counts, index.ids, params):
        log.info("%s", line)
    sizes = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    log.info("%s: %d records kept, %d refused: %s", data, counts["kept"], len(problems), sizes)


if __name__ == "__main__":
    run_stage(main)
