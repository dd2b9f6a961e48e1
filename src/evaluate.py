"""Stage 7 · evaluate: every system's answers → judgements, results, scores of every record, and the summary.

python src/evaluate.py data/human-scores.csv data/judgements.json metrics checks=data/split/checks.json \
    baselines=data/baselines sft=data/responses.json preferred=data/preferred
Each file of the two folders is a system, or NAME=FILE names one. The last system is the primary one.
"""

import instruct.core.beginning  # noqa: F401 - first: what it says about Ctrl-C holds during all imports

# isort: split
import logging
from pathlib import Path

from instruct.checks.schema import read_checks
from instruct.core.files import write_csv, write_json
from instruct.core.params import load_params
from instruct.core.records import read_responses, write_records
from instruct.core.stage import run_stage
from instruct.evaluation.human import count_scored, human_scores, read_rows
from instruct.evaluation.judges.opening import open_judges
from instruct.evaluation.measured import choose_judged, score_all
from instruct.evaluation.run import prepare_judges
from instruct.evaluation.score import check_answers, check_unscored, judge_all
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.summary import judge_scores, make_table, summarise
from instruct.evaluation.systems import name_systems
from instruct.results.headline import align, headline_lines, headline_rows, judge_lines
from instruct.results.schema import dump
from instruct.results.summary import summary_of
from instruct.results.table import table_columns, table_rows
from instruct.servers.settings import ServersParams
from instruct.text.prompts import PromptParams

log = logging.getLogger(__name__)


def main(human: Path, judgements: Path, metrics: Path, *given: Path) -> None:
    """Score every answer of every system, given as NAME=FILE, by its check and by the judges that params.yaml names."""
    params, prompt = load_params("evaluate", EvaluateParams), load_params("prompt", PromptParams)
    systems = name_systems(given)
    answers = {system: read_responses(path) for system, path in systems.files.items()}
    check_answers(answers)
    people, unused = human_scores(read_rows(human), answers)
    checks = read_checks(systems.checks) if systems.checks else {}
    measured = score_all(answers, checks)
    pair = choose_judged(measured, systems)
    with open_judges(params, load_params("servers", ServersParams), prompt.chosen) as judges:
        fitness = prepare_judges(judges, answers, params, pair)
        verdicts = judge_all(judges, answers, pair)
        judged_by = {name: (judge.identity, fitness[name]) for name, judge in judges.items()}
    write_records(judgements, verdicts)
    check_unscored(verdicts, params.max_unscored)
    results = summarise(verdicts, judged_by, answers, systems, measured, checks, people, prompt, params)
    table = make_table(answers, judge_scores(verdicts, list(judges)), people, measured)
    write_json(metrics / "evaluate.json", dump(results))
    write_json(metrics / "summary.json", summary_of(results))
    write_csv(metrics / "scores.csv", table_columns(list(table.scores), results.names), table_rows(table))
    if count_scored(people) or unused:
        log.info("%s: %d answers scored by people; %d scores are of other answers", human, count_scored(people), unused)
    for line in (*judge_lines(results), *align(headline_rows(results)), *headline_lines(results, table)):
        log.info("%s", line)


if __name__ == "__main__":
    run_stage(main, writes=("judgements", "metrics"))
