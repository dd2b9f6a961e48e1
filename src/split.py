"""Stage 1 · split: the data set → train, val and test.

python src/split.py data/split metrics/split.json      (the data set is split.data in params.yaml)
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path

from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.params import load_params
from instruct.core.records import part_rows, problem_lines, write_records
from instruct.core.stage import run_stage
from instruct.formats.rows import LEFT_OUT, Rows, left_out_lines
from instruct.splitting.checks import checks_by_file, count_checks, join_checks
from instruct.splitting.partition import PARTS, SplitParams, divide, take_parts
from instruct.splitting.summary import find_warnings, summarise

log = logging.getLogger(__name__)


def main(split: Path, metrics: Path) -> None:
    """Validate every record, split the good ones, and count the outcome for all."""
    params = load_params("split", SplitParams)
    data = Path(params.data)  # not from the command line, where a shell would split its blanks and quotes
    rows = Rows(data, params.columns)
    examples, bad = part_rows(rows)
    lines = problem_lines(bad)
    if bad and params.invalid == "raise":
        raise DataError("\n".join([*lines, f"{len(bad)} bad records; correct them, or set split.invalid: drop"]))
    for line in lines:
        log.info("dropped %s", line)
    division = divide(examples, params)
    parts = take_parts(examples, division)
    checks, unknown = join_checks(Path(params.checks), rows.checks, examples)
    for part, those in parts.items():
        write_records(split / f"{part}.json", those)
    for file, found in checks_by_file(parts, checks).items():
        write_json(split / file, found)
    counts = summarise(division, examples, params, refused=len(bad))
    counts["left_out"] = {name: rows.left_out[name] for name in LEFT_OUT}
    counts["checks"] = count_checks(parts, checks, unknown)
    write_json(metrics, counts)
    for line in [*left_out_lines(rows), *find_warnings(division, counts, examples, params)]:
        log.info("%s", line)
    if unknown:
        log.info("%s: %d of its checks match no record of %s", params.checks, unknown, data)
    sizes = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    log.info("%s: %d records kept, %d refused: %s", data, counts["kept"], len(bad), sizes)


if __name__ == "__main__":
    run_stage(main, writes=("split", "metrics"))
