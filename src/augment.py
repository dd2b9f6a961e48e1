"""Stage 2 · augment: train and new records made from it → what training reads. Optional: no methods, no new records.

python src/augment.py data/split data/augmented metrics/augment.json
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path

from instruct.augmentation.augment import augment
from instruct.augmentation.settings import AugmentParams
from instruct.core.files import write_json
from instruct.core.params import load_params
from instruct.core.records import read_examples, write_records
from instruct.core.stage import run_stage
from instruct.servers.lazy import LazyServer
from instruct.servers.settings import ServersParams

log = logging.getLogger(__name__)


def main(split: Path, augmented: Path, metrics: Path) -> None:
    """Augment train alone; val is copied, and test is only read to exclude similar records."""
    params, servers = load_params("augment", AugmentParams), load_params("servers", ServersParams)
    parts = {part: read_examples(split / f"{part}.json") for part in ("train", "val", "test")}
    with LazyServer(servers, params.server) as server:
        result = augment(parts["train"], parts["val"] + parts["test"], params, server.ask)
        identity = server.identity
    write_records(augmented / "train.json", result.examples)
    write_records(augmented / "val.json", parts["val"])
    sizes = {"before": len(parts["train"]), "train": len(result.examples)}
    write_json(metrics, {**sizes, "methods": result.counts, "server": identity})
    for method, counts in result.counts.items():
        log.info("%s: %s", method, ", ".join(f"{count} {name}" for name, count in counts.items() if count))
    log.info("train: %d records, before %d", sizes["train"], sizes["before"])


if __name__ == "__main__":
    run_stage(main, writes=("augmented", "metrics"))
