"""Checks the judges before a run: their prompts, their servers, and their scores of the controls."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from instruct.core.errors import DataError, JudgeError
from instruct.core.params import load_params
from instruct.core.records import Response, read_responses
from instruct.core.shown import printable, printable_lines
from instruct.evaluation.controls import KINDS, Fitness, control_groups, make_controls, prepare, run_controls
from instruct.evaluation.judges.base import Answers, Judge
from instruct.evaluation.judges.model import ModelJudge
from instruct.evaluation.judges.opening import open_judges
from instruct.evaluation.rubrics import prompt_hash
from instruct.evaluation.score import check_answers
from instruct.evaluation.settings import EvaluateParams
from instruct.formats.rows import check_rows
from instruct.results.schema import REFERENCE
from instruct.servers.settings import ServersParams
from instruct.splitting.partition import SplitParams
from instruct.text.prompts import PromptParams

ANSWERS = {"base": Path("data/baselines/base.json"), "sft": Path("data/responses.json")}

LISTED = 20  # lines on bad records


def load_settings(judge: str | None, rubric: str | None, scoring: str | None) -> EvaluateParams:
    """The section `evaluate`, with the options of the command line."""
    params = load_params("evaluate", EvaluateParams)
    if judge:
        params = replace(params, judges=(judge,))
    if rubric:
        params = replace(params, rubric=rubric)
    if scoring:
        if scoring not in ("text", "expected"):
            raise JudgeError(f"--scoring must be text or expected, is {scoring}")
        params = replace(params, scoring=scoring)  # type: ignore[arg-type]
    return params


def opened_judges(params: EvaluateParams) -> AbstractContextManager[dict[str, Judge]]:
    """The judges, with servers and template from params.yaml."""
    return open_judges(params, load_params("servers", ServersParams), load_params("prompt", PromptParams).chosen)


def load_answers() -> tuple[Answers, str]:
    """Both systems' answers and their source; before the first run, the reference answers instead."""
    if all(path.is_file() for path in ANSWERS.values()):
        return read_answers(), "the answers in data/"
    params = load_params("split", SplitParams)
    examples, problems = check_rows(Path(params.data), params.columns)
    if (problems and params.invalid == "raise") or not examples:
        lines = [line for some in problems.values() for line in some] or [f"{params.data}: holds no records"]
        raise DataError("\n".join(lines[:LISTED]))
    records = [example.answered(example.output) for example in examples]
    dropped = f", {len(problems)} bad records left out" if problems else ""
    return {"base": records, "sft": records}, f"no answers yet: the reference answers of {params.data}{dropped}"


def read_answers() -> Answers:
    """Both systems' answers; raises DataError if they are to different records, as after a run that was cut short."""
    answers = {system: read_responses(path) for system, path in ANSWERS.items()}
    check_answers(answers)
    return answers


def dry_run(params: EvaluateParams, record: str | None) -> Iterator[str]:
    """The prompt of each judge for one record, and the number of requests; sends nothing."""
    answers, source = load_answers()
    chosen = {system: [find_record(responses, record)] for system, responses in answers.items()}
    with opened_judges(params) as judges:
        for name, judge in judges.items():
            if not isinstance(judge, ModelJudge):
                yield f"{name}: needs no prompt; {judge.identity.about['score']}"
                continue
            calls = len(judge.prompts(answers)) * params.repeats
            controls = make_controls(answers["base"], params.controls)
            known = sum(len(judge.prompts(group)) for group in control_groups(judge, controls)) * params.repeats
            yield f"{name}: rubric {params.rubric} {judge.rubric.sha256}, {source}"
            yield f"{name}: {calls} verdicts on answers, at most {known} on controls; cached ones are not asked again"
            for prompt in judge.prompts(chosen):
                yield f"--- prompt {prompt_hash(prompt)}"
                yield printable_lines(prompt)
            yield f"--- schema {judge.rubric.schema or 'none'}"


def find_record(responses: Sequence[Response], record: str | None) -> Response:
    """The answer to the record of this id, or the first."""
    for one in responses:
        if record in (None, one.id):
            return one
    raise DataError(f"there is no answer to a record {record}; the ids are in data/split/test.json")


def check_judges(params: EvaluateParams) -> Iterator[tuple[str, bool]]:
    """Lines about each judge's server and controls, each with whether it passed; raises if a server is missing."""
    answers, _ = load_answers()
    controls = make_controls(answers["base"], params.controls)
    with opened_judges(params) as judges:
        for name, judge in judges.items():
            yield from ((line, True) for line in _server_lines(name, judge, answers, controls))
            fitness = run_controls(judge, controls, max_unscored=params.max_unscored)
            yield from ((line, True) for line in control_lines(fitness))
            if fitness.fit:
                yield f"{name}: the controls came out in the expected order", True
            for problem in (*fitness.problems, *fitness.evidence):
                yield f"{name} is not fit: {problem}", name == REFERENCE


def _server_lines(name: str, judge: Judge, answers: Answers, controls: dict[str, list[Response]]) -> Iterator[str]:
    prepare(judge, answers, controls)
    identity = judge.identity
    about = ", ".join(f"{key} {value}" for key, value in identity.about.items() if key != "judge" and value)
    yield printable(f"{name}: {about}")
    if identity.rubric:
        yield f"{name}: rubric {identity.rubric} {identity.rubric_sha256}; the longest prompt fits"


def control_lines(fitness: Fitness) -> list[str]:
    """The known answers with their mean scores."""
    lines = [f"  {'mean':>6}  over {fitness.count} records each, {fitness.unscored} without a score"]
    for kind, words in KINDS.items():
        score = f"{fitness.scores[kind]:6.1f}" if kind in fitness.scores else "  none"
        lines.append(f"  {score}  {words}")
    return lines
