"""Stage 5 · plot: metrics and answers → figures and one HTML page.

python src/plot.py metrics data metrics/report metrics/score_bands.csv
"""

from pathlib import Path

from instruct.files import read_csv, read_json, write_csv
from instruct.model.backbones import ModelParams
from instruct.params import load_params
from instruct.plotting.figures import draw_learning_rate, draw_loss, draw_scores, save_figure
from instruct.plotting.report import count_bands, most_changed, pair_answers, worst, write_page
from instruct.plotting.settings import PlotParams
from instruct.plotting.verdict import describe_difference, name_score
from instruct.records import read_responses
from instruct.stage import run_stage
from instruct.text.prompts import PromptParams


def main(metrics: Path, data: Path, report: Path, bands_file: Path) -> None:
    """Draw what happened, write the page, and leave the bands of scores for DVC's own plots."""
    params = load_params("plot", PlotParams)
    backbone, template = load_params("model", ModelParams).backbone, load_params("prompt", PromptParams).template
    results = {name: read_json(metrics / f"{name}.json") for name in ("split", "train", "evaluate")}
    curves = {name: read_csv(metrics / "curves" / f"{name}.csv") for name in ("train", "val")}
    judgements = read_json(data / "judgements.json")
    pairs = pair_answers(
        read_responses(data / "base_responses.json"), read_responses(data / "responses.json"), judgements
    )
    bands = count_bands(pairs)
    write_csv(bands_file, ["band", "base", "tuned"], bands)
    score_name = name_score(results["evaluate"]["judge"])
    figures = {name: report / f"{name}.svg" for name in ("loss", "learning_rate", "scores")}
    save_figure(figures["loss"], lambda axes: draw_loss(axes, curves["train"], curves["val"]))
    save_figure(figures["learning_rate"], lambda axes: draw_learning_rate(axes, curves["train"]))
    save_figure(figures["scores"], lambda axes: draw_scores(axes, bands, score_name))
    values = {
        **results,
        "backbone": backbone,
        "template": template,
        "score_name": score_name,
        "verdict": describe_difference(results["evaluate"]),
        "worst": worst(pairs, params.examples),
        "improved": most_changed(pairs, params.examples, better=True),
        "regressed": most_changed(pairs, params.examples, better=False),
    }
    write_page(report / "index.html", values, figures)


if __name__ == "__main__":
    run_stage(main)
