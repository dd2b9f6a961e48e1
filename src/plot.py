"""Stage 8 · plot: the run in this folder → one HTML page.

python src/plot.py metrics/report/index.html
"""

from pathlib import Path

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during these imports
from instruct.backbones.catalog import ModelParams
from instruct.core.params import load_params
from instruct.core.stage import run_stage
from instruct.report.gather import page_values, read_finished, read_pairs
from instruct.report.report import write_page
from instruct.report.settings import PlotParams
from instruct.text.prompts import PromptParams


def main(page: Path) -> None:
    """Write the page of the run."""
    params = load_params("plot", PlotParams)
    backbone, template = load_params("model", ModelParams).backbone, load_params("prompt", PromptParams).template
    run = read_finished(Path())
    title = f"{backbone} before and after fine-tuning"
    write_page(
        page, {**page_values(run, read_pairs(run, Path()), params.examples), "title": title, "template": template}
    )


if __name__ == "__main__":
    run_stage(main, writes=("page",))
