"""Stage plot: the run in this folder → figures and one HTML page.

python src/plot.py metrics/report metrics/score_bands.csv
"""

from pathlib import Path

from instruct.backbones.catalog import ModelParams
from instruct.core.files import write_csv
from instruct.core.params import load_params
from instruct.core.stage import run_stage
from instruct.plotting.figures import draw_learning_rate, draw_loss, draw_scores, save_figure
from instruct.plotting.gather import page_values, read_finished, read_pairs
from instruct.plotting.report import write_page
from instruct.plotting.settings import PlotParams
from instruct.text.prompts import PromptParams


def main(report: Path, bands_file: Path) -> None:
    """Draw what happened, write the page, and leave the bands of scores for DVC's own plots."""
    params = load_params("plot", PlotParams)
    backbone, template = load_params("model", ModelParams).backbone, load_params("prompt", PromptParams).template
    run = read_finished(Path())
    values = {
        **page_values(run, read_pairs(run, Path()), params.examples),
        "backbone": backbone,
        "template": template,
    }
    write_csv(bands_file, ["band", *run.results.names], values["bands"])
    figures = {name: report / f"{name}.svg" for name in ("loss", "learning_rate", "scores")}
    save_figure(figures["loss"], lambda axes: draw_loss(axes, run.curves["train"], run.curves["val"]))
    save_figure(figures["learning_rate"], lambda axes: draw_learning_rate(axes, run.curves["train"]))
    save_figure(
        figures["scores"], lambda axes: draw_scores(axes, values["bands"], values["score_names"][values["judge"]])
    )
    write_page(report / "index.html", values, figures)


if __name__ == "__main__":
    run_stage(main)
