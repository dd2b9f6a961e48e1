"""Stage 8 · plot: the run in this folder → one HTML page.

python src/plot.py metrics/report/index.html
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
from pathlib import Path

from instruct.backbones.catalog import ModelParams
from instruct.core.params import load_params
from instruct.core.stage import run_stage
from instruct.report.gather import page_values, read_finished, read_pairs
from instruct.report.report import write_page
from instruct.report.settings import PlotParams
from instruct.text.prompts import DEFAULT, PromptParams


def main(page: Path) -> None:
    """Write the page of the run."""
    params = load_params("plot", PlotParams)
    run = read_finished(Path())
    about = {
        "title": f"{load_params('model', ModelParams).backbone} before and after fine-tuning",
        "template": describe(load_params("prompt", PromptParams)),
    }
    write_page(page, {**page_values(run, read_pairs(run, Path()), params.examples), **about})


def describe(prompt: PromptParams) -> str:
    """The template by name, and the system prompt unless it is the template's own."""
    if prompt.system == DEFAULT:
        return prompt.template
    return f"{prompt.template}, {'system prompt ' + repr(prompt.system) if prompt.system else 'no system prompt'}"


if __name__ == "__main__":
    run_stage(main, writes=("page",))
