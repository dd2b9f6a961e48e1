"""Asks both systems open questions, turn by turn, and has the answers judged; writes no tracked file."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.errors import JudgeError
from instruct.core.fingerprint import Fingerprint
from instruct.core.params import load_params
from instruct.core.records import Example, Response
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.evaluation.run import prepare_judges
from instruct.evaluation.score import Judgement, judge_system
from instruct.evaluation.settings import EvaluateParams
from instruct.generation.answer import answer_examples
from instruct.generation.journal import Journal
from instruct.generation.settings import GenerateParams
from instruct.model.pretrained import load_backbone, load_trained
from instruct.results.schema import REFERENCE
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams
from instruct.tools.judge import opened_judges
from instruct.tools.question_file import Question

RUBRIC = "open-question"
Answerer = Callable[[Sequence[Example]], list[Response]]


def answer_turns(questions: Sequence[Question], answer: Answerer) -> list[Response]:
    """The answers to all turns, in order; a later turn has the earlier questions and answers as its history."""
    said: dict[str, tuple[str, ...]] = {question.id: () for question in questions}
    responses: list[Response] = []
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [question for question in questions if turn < len(question.turns)]
        replies = answer([question.example(turn, said[question.id]) for question in asked])
        for question, reply in zip(asked, replies, strict=True):
            said[question.id] += (reply.response,)
        responses += replies
    return responses


def open_system(checkpoint: Path | None, max_new_tokens: int) -> Answerer:
    """A function that answers with the base model, or with a checkpoint."""
    runtime = start_runtime(load_params("runtime", RuntimeParams))
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    loaded = load_trained(checkpoint, runtime.device) if checkpoint else load_backbone(backbone, runtime.device)
    template = load_params("prompt", PromptParams).chosen
    model, tokenizer = loaded[0], with_end_of(template, loaded[1])
    params = replace(load_params("generate", GenerateParams), max_new_tokens=max_new_tokens)

    def answer(examples: Sequence[Example]) -> list[Response]:
        with tempfile.TemporaryDirectory(prefix="instruct-questions-") as folder:
            journal = Journal(Path(folder) / "journal", Fingerprint(parts={}))
            return answer_examples(
                model, tokenizer, examples, template=template, params=params, runtime=runtime, journal=journal
            )

    return answer


def without_reference(params: EvaluateParams) -> EvaluateParams:
    """The settings with the judges that can judge an open question, by the rubric made for it."""
    judges = tuple(name for name in params.judges if name != REFERENCE)
    if not judges:
        raise JudgeError("open questions need a language model as judge; name one by --judge or in evaluate.judges")
    return replace(params, judges=judges, rubric=RUBRIC)


def check_judges(
    questions: Sequence[Question], params: EvaluateParams, max_new_tokens: int, answers: Mapping[str, list[Response]]
) -> None:
    """Ask every judge's server, then try every judge on known answers, all before the first question is answered.

    If all `answers` are known and every reply to them is in the cache, no server is asked.

    Raises JudgeError or ServerError if a server is missing, if its context has no room for the longest answers, if a
    judge is not fit, or if no question has a reference answer to try it on.
    """
    known = known_answers(questions)
    if not known and not params.allow_unfit:
        raise JudgeError(
            "no question has a reference answer, so a judge cannot be tried on known answers; add some, or set "
            "evaluate.allow_unfit: true"
        )
    with opened_judges(params) as judges:
        for judge in judges.values():
            judge.prepare(answers or {"longest": longest_answers(questions, max_new_tokens)})
        if known:
            prepare_judges(judges, {"known": known}, params)


def known_answers(questions: Sequence[Question]) -> list[Response]:
    """The turns with a reference answer, after the reference answers to the turns before them."""
    examples = [
        question.example(turn, question.references[:turn])
        for question in questions
        for turn in range(len(question.turns))
        if question.references[turn]
    ]
    return [one.answered(one.output) for one in examples]


def longest_answers(questions: Sequence[Question], max_new_tokens: int) -> list[Response]:
    """The last turn of each question, where each answer is about as long as it may be."""
    words = "word " * max_new_tokens
    last = [question.example(len(question.turns) - 1, (words,) * (len(question.turns) - 1)) for question in questions]
    return [one.answered(words) for one in last]


def judge_questions(answers: Mapping[str, list[Response]], params: EvaluateParams) -> list[Judgement]:
    """Verdicts of every judge on every system's answers."""
    with opened_judges(params) as judges:
        return [
            judgement
            for name, judge in judges.items()
            for system, responses in answers.items()
            for judgement in judge_system(name, judge, system, responses)
        ]


def table(judgements: Sequence[Judgement]) -> Iterator[str]:
    """Mean scores with their denominators by judge, category and system."""
    yield f"{'judge':12} {'category':14} {'system':7} {'mean':>6}  scored"
    for judge in dict.fromkeys(one.judge for one in judgements):
        own = [one for one in judgements if one.judge == judge]
        for category in (*dict.fromkeys(one.kind for one in own), "all"):
            for system in dict.fromkeys(one.system for one in own):
                part = [one for one in own if one.system == system and category in (one.kind, "all")]
                scores = [one.score for one in part if one.score is not None]
                shown = f"{mean(scores):6.1f}" if scores else "  none"
                yield f"{judge:12} {category:14} {system:7} {shown}  {len(scores)} of {len(part)}"


def rows_of(answers: Mapping[str, list[Response]], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """All answers and verdicts, for a file."""
    return {
        "answers": {system: [asdict(one) for one in responses] for system, responses in answers.items()},
        "judgements": [asdict(one) for one in judgements],
    }
