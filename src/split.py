"""Stage 1 · split: the data set → train, val and test.

python src/split.py data/split metrics/split.json      (the data set is split.data in params.yaml)
"""

import logging
from pathlib import Path

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during these imports
from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.params import load_params
from instruct.core.records import BadRecord, write_records
from instruct.core.stage import run_stage
from instruct.formats.rows import stream_rows
from instruct.splitting.partition import PARTS, SplitParams, divide
from instruct.splitting.store import RecordStore
from instruct.splitting.summary import find_warnings, summarise

log = logging.getLogger(__name__)


def main(split: Path, metrics: Path) -> None:
    """Validate every record, divide the good ones, and count what happened to all."""
    params = load_params("split", SplitParams)
    data = Path(params.data)  # not from the command line, where a shell would take its blanks and quotes apart
    store = RecordStore(params.duplicates.on, params.seed)
    bad: list[BadRecord] = []
    for row in stream_rows(data, params.columns):
        if isinstance(row, BadRecord):
            bad.append(row)
        else:
            store.add(row)
    lines = [line for record in bad for line in record.lines()]
    if bad and params.invalid == "raise":
        raise DataError("\n".join([*lines, f"{len(bad)} bad records; mend them, or set split.invalid: drop"]))
    for line in lines:
        log.info("dropped %s", line)
    division = divide(store.index, params)
    for part in PARTS:
        write_records(split / f"{part}.json", store.read_part(division, part))
    counts = summarise(division, store.index.kinds, params, refused=len(bad))
    write_json(metrics, counts)
    for line in find_warnings(division, counts, store.index.ids, params):
        log.info("%s", line)
    sizes = ", ".join(f"{part} {counts[part]}" for part in PARTS)
    log.info("%s: %d records kept, %d refused: %s", data, counts["kept"], len(bad), sizes)


if __name__ == "__main__":
    run_stage(main, writes=("split", "metrics"))
