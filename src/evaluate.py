"""Stage 4 · evaluate: both systems' responses → judgements and scores.

python src/evaluate.py data/base_responses.json data/responses.json \
    data/judgements.json metrics/evaluate.json metrics/scores.csv
"""

import logging
from pathlib import Path
from typing import Any

from instruct.evaluation.judges.base import Judge
from instruct.evaluation.judges.ollama import OllamaJudge
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.score import SYSTEMS, check_unscored, judge_all, scores_of
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.summary import measure_all, score_columns, score_rows, summarise
from instruct.files import write_csv, write_json
from instruct.params import load_params
from instruct.records import read_responses, write_records
from instruct.stage import run_stage
from instruct.text.prompts import TEMPLATES, PromptParams

log = logging.getLogger(__name__)


def main(base: Path, tuned: Path, judgements: Path, metrics: Path, scores: Path) -> None:
    """Judge every answer of both systems with the judges that params.yaml names."""
    params, template = load_params("evaluate", EvaluateParams), load_params("prompt", PromptParams).template
    answers = {"base": read_responses(base), "tuned": read_responses(tuned)}
    judges: dict[str, Judge] = {
        name: OllamaJudge(params.ollama, TEMPLATES[template]) if name == "ollama" else ReferenceJudge()
        for name in params.judges
    }
    verdicts = judge_all(judges, answers)
    write_records(judgements, verdicts)
    check_unscored(verdicts, params.max_unscored)
    likeness = measure_all(answers)
    identities = {name: judge.identity for name, judge in judges.items()}
    summary = summarise(verdicts, identities, answers, likeness, template, params)
    write_json(metrics, summary)
    by_judge = {name: {system: scores_of(verdicts, name, system) for system in SYSTEMS} for name in judges}
    write_csv(scores, score_columns(list(by_judge)), score_rows(answers, by_judge, likeness))
    for name in judges:
        log_means(name, summary["judges"][name])


def log_means(name: str, values: dict[str, Any]) -> None:
    """One line for each system: the mean and its denominator."""
    for system in SYSTEMS:
        scored, unscored = values[system]["scored"], values[system]["unscored"]
        mean = f"mean {values[system]['mean']:.1f}" if scored else "no mean"
        log.info("%s, %s: %s over %d of %d (%d not scored)", name, system, mean, scored, scored + unscored, unscored)


if __name__ == "__main__":
    run_stage(main)
