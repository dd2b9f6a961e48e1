"""Stage 7 · evaluate: every system's answers → judgements, results, scores of every record, and the summary.

python src/evaluate.py data/human-scores.csv data/judgements.json metrics base=data/base_responses.json \
    sft=data/responses.json
The first system is the one that the others are compared with, the last is the primary one.
"""

import logging
from pathlib import Path

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during these imports
from instruct.core.files import write_csv, write_json
from instruct.core.params import load_params
from instruct.core.records import read_responses, write_records
from instruct.core.stage import run_stage
from instruct.evaluation.human import count_scored, human_scores, read_rows
from instruct.evaluation.judges.opening import open_judges
from instruct.evaluation.run import prepare_judges
from instruct.evaluation.score import check_answers, check_unscored, judge_all, name_systems
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.summary import make_table, measure_all, summarise
from instruct.results.schema import Results, dump
from instruct.results.summary import summary_of
from instruct.results.table import table_columns, table_rows
from instruct.servers.settings import ServersParams
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


def main(human: Path, judgements: Path, metrics: Path, *systems: Path) -> None:
    """Judge every answer of every system, given as NAME=FILE, with the judges that params.yaml names."""
    params, prompt = load_params("evaluate", EvaluateParams), load_params("prompt", PromptParams)
    files = name_systems(systems)
    answers = {system: read_responses(path) for system, path in files.items()}
    check_answers(answers)
    people, unused = human_scores(read_rows(human), answers)
    with open_judges(params, load_params("servers", ServersParams), prompt.chosen) as judges:
        fitness = prepare_judges(judges, answers, params)
        verdicts = judge_all(judges, answers)
        judged_by = {name: (judge.identity, fitness[name]) for name, judge in judges.items()}
    write_records(judgements, verdicts)
    check_unscored(verdicts, params.max_unscored)
    measured = measure_all(answers)
    results = summarise(verdicts, judged_by, answers, files, measured, people, prompt.template, params, prompt.system)
    table = make_table(results, answers, verdicts, people, measured)
    write_json(metrics / "evaluate.json", dump(results))
    write_json(metrics / "summary.json", summary_of(results))
    write_csv(metrics / "scores.csv", table_columns(list(table.scores), results.names), table_rows(table))
    if count_scored(people) or unused:
        log.info("%s: %d answers scored by people; %d scores are of other answers", human, count_scored(people), unused)
    log_means(results)


def log_means(results: Results) -> None:
    """One line for each judge and system: the mean and its denominator."""
    for judge in results.judges:
        for one in judge.systems:
            mean = "no mean" if one.mean is None else f"mean {one.mean:.1f}"
            total = one.scored + one.unscored
            log.info(
                "%s, %s: %s over %d of %d (%d not scored)",
                judge.name,
                one.system,
                mean,
                one.scored,
                total,
                one.unscored,
            )


if __name__ == "__main__":
    run_stage(main, writes=("judgements", "metrics"))
