"""Judges at work: first what could be missing, then the known answers, then the answers."""

import logging
from collections.abc import Collection, Mapping

from instruct.core.errors import JudgeError
from instruct.evaluation.controls import Fitness, make_controls, prepare, run_controls
from instruct.evaluation.judges.base import Answers, Judge
from instruct.evaluation.score import answers_for
from instruct.evaluation.settings import EvaluateParams
from instruct.results.schema import REFERENCE

log = logging.getLogger(__name__)


def prepare_judges(
    judges: Mapping[str, Judge], answers: Answers, params: EvaluateParams, pair: Collection[str] = ()
) -> dict[str, Fitness]:
    """Check every judge's server, then every judge by the controls, so that a long run fails at its start.

    Raises JudgeError for a judge that is not fit, unless `allow_unfit`. The reference judge is never refused: it
    claims to be no more than similarity. A judge of pairs is asked about `pair` alone.
    """
    controls = make_controls(next(iter(answers.values())), params.controls)
    for judge in judges.values():
        prepare(judge, answers_for(judge, answers, pair), controls)
    fitness = {}
    for name, judge in judges.items():
        fitness[name] = run_controls(judge, controls, max_unscored=params.max_unscored)
        if fitness[name].fit:
            continue
        reasons = "\n".join(f"  {line}" for line in (*fitness[name].problems, *fitness[name].evidence))
        message = f"{name} is not fit to judge by the rubric {params.rubric} (scoring: {params.scoring}):\n{reasons}"
        if name != REFERENCE and not params.allow_unfit:
            raise JudgeError(
                f"{message}\nchoose another model, rubric or scoring; evaluate.allow_unfit: true uses it all the same, "
                "to try the plumbing"
            )
        log.warning("%s", message)
    return fitness
