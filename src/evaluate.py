"""Stage 4 · evaluate: both systems' responses → judgements and scores.

python src/evaluate.py data/base_responses.json data/responses.json data/human-scores.csv \
    data/judgements.json metrics/evaluate.json metrics/scores.csv
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instruct.core.files import write_csv, write_json
from instruct.core.params import load_params
from instruct.core.records import read_responses, write_records
from instruct.core.stage import run_stage
from instruct.evaluation.human import NAME, count_scored, human_scores, read_rows
from instruct.evaluation.judges.opening import open_judges
from instruct.evaluation.run import prepare_judges
from instruct.evaluation.score import SYSTEMS, check_answers, check_unscored, judge_all, scores_of
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.summary import measure_all, score_columns, score_rows, summarise
from instruct.servers.settings import ServersParams
from instruct.text.prompts import TEMPLATES, PromptParams

log = logging.getLogger(__name__)


def main(base: Path, tuned: Path, human: Path, judgements: Path, metrics: Path, scores: Path) -> None:
    """Judge every answer of both systems with the judges that params.yaml names."""
    params, template = load_params("evaluate", EvaluateParams), load_params("prompt", PromptParams).template
    answers = {"base": read_responses(base), "tuned": read_responses(tuned)}
    check_answers(answers)
    people, unused = human_scores(read_rows(human), answers)
    with open_judges(params, load_params("servers", ServersParams), TEMPLATES[template]) as judges:
        fitness = prepare_judges(judges, answers, params)
        verdicts = judge_all(judges, answers)
        judged_by = {name: (judge.identity, fitness[name]) for name, judge in judges.items()}
    write_records(judgements, verdicts)
    check_unscored(verdicts, params.max_unscored)
    likeness = measure_all(answers)
    summary = summarise(verdicts, judged_by, answers, likeness, people, template, params)
    write_json(metrics, summary)
    by_judge = {name: {system: scores_of(verdicts, name, system) for system in SYSTEMS} for name in judged_by}
    if count_scored(people) or unused:
        by_judge[NAME] = people
        log.info("%s: %d answers scored by people; %d scores are of other answers", human, count_scored(people), unused)
    write_csv(scores, score_columns(list(by_judge)), score_rows(answers, by_judge, likeness))
    log_means(summary["judges"])


def log_means(judges: Mapping[str, Any]) -> None:
    """One line for each judge and system: the mean and its denominator."""
    for name, values in judges.items():
        for system in SYSTEMS:
            scored, unscored = values[system]["scored"], values[system]["unscored"]
            mean = f"mean {values[system]['mean']:.1f}" if scored else "no mean"
            total = scored + unscored
            log.info("%s, %s: %s over %d of %d (%d not scored)", name, system, mean, scored, total, unscored)


if __name__ == "__main__":
    run_stage(main)
