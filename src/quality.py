"""Stage 3 · quality: train, val (augmented) and test → the quality report, and a pass that training waits for.

python src/quality.py data/augmented data/split metrics/data.json data/quality.txt
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.errors import DataError
from instruct.core.files import write_json, write_text
from instruct.core.params import load_params
from instruct.core.records import BadRecord, stream_examples
from instruct.core.stage import run_stage
from instruct.model.pretrained import open_tokenizer
from instruct.quality.check import QualityCheck
from instruct.quality.gates import verdicts
from instruct.quality.settings import QualityParams
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)
PASSED = "The data passed the gates in params.yaml (section quality); the report is metrics/data.json.\n"


def main(augmented: Path, split: Path, metrics: Path, passed: Path) -> None:
    """Check every record of every part; raises DataError, after writing the report, if a gate fails."""
    params, prompt = load_params("quality", QualityParams), load_params("prompt", PromptParams)
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    tokenizer, context = open_tokenizer(backbone)
    check = QualityCheck(params, template=prompt.chosen, tokenizer=tokenizer)
    for part, folder in (("train", augmented), ("val", augmented), ("test", split)):
        for row in stream_examples(folder / f"{part}.json"):
            if isinstance(row, BadRecord):
                raise DataError("\n".join([*row.lines(), "run `dvc repro quality`"]))
            check.add(row, part)
    report = check.report()
    report["tokens"] |= {"template": prompt.template, "tokenizer": backbone.name, "context": context}
    write_json(metrics, report)
    warnings, failures = verdicts(report)
    warnings += beyond_context(report["tokens"])
    for line in warnings:
        log.info("warning: %s", line)
    if failures:
        raise DataError("\n".join([*failures, f"the data did not pass; {metrics} has the whole report"]))
    log.info("%d records: every gate passed, %d of them with a warning", report["records"], len(warnings))
    write_text(passed, PASSED)


def beyond_context(tokens: dict[str, Any]) -> list[str]:
    """Lists the longest records that exceed the backbone's context; the last token is a target only."""
    named = ", ".join(
        f"{one['id']} ({one['tokens']})" for one in tokens["longest"] if one["tokens"] > tokens["context"] + 1
    )
    what = f"records have more tokens than {tokens['tokenizer']}'s context of {tokens['context']}"
    return [f"{what}: {named}; train.over_long decides what happens to them"] if named else []


if __name__ == "__main__":
    run_stage(main, writes=("metrics", "passed"))
