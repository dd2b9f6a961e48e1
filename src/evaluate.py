"""Stage 4 · evaluate: both systems' responses → judgements and scores.

python src/evaluate.py data/base_responses.json data/responses.json data/judgements.json metrics/evaluate.json
"""

import logging
from pathlib import Path

from instruct.evaluation.judges.base import Judge
from instruct.evaluation.judges.ollama import OllamaJudge
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.score import check_unscored, judge_all, summarise
from instruct.evaluation.settings import EvaluateParams
from instruct.files import write_json
from instruct.params import load_params
from instruct.records import read_responses, write_records
from instruct.stage import run_stage
from instruct.text.prompts import TEMPLATES, PromptParams

log = logging.getLogger(__name__)


def main(base: Path, tuned: Path, judgements: Path, metrics: Path) -> None:
    """Judge every answer of both systems with the judge that params.yaml names."""
    params = load_params("evaluate", EvaluateParams)
    template = TEMPLATES[load_params("prompt", PromptParams).template]
    answers = {"base": read_responses(base), "tuned": read_responses(tuned)}
    judge: Judge = OllamaJudge(params.ollama, template) if params.judge == "ollama" else ReferenceJudge()
    verdicts = judge_all(judge, answers)
    write_records(judgements, verdicts)
    check_unscored(verdicts, params.max_unscored)
    summary = summarise(verdicts, judge.identity, params)
    write_json(metrics, summary)
    for system in answers:
        scored, unscored = summary[system]["scored"], summary[system]["unscored"]
        mean = f"mean {summary[system]['mean']:.1f}" if scored else "no mean"
        log.info("%s: %s over %d of %d (%d not scored)", system, mean, scored, scored + unscored, unscored)


if __name__ == "__main__":
    run_stage(main)
