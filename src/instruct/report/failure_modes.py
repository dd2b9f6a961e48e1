"""The ways in which instruction tuning usually goes wrong: how each shows, what this run shows of it, what to run.

Pure: from answers and metrics to rows. A number that a run does not have is left out, and a mode without any number
says so; nothing is guessed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instruct.core.records import Response
from instruct.core.repetition import find_repetition
from instruct.results.schema import JudgeResults
from instruct.text.prompts import TEMPLATES

# Shares of the primary system's answers beyond which a sign is worth a look; a few of them are ordinary.
FEW, SOME = 0.02, 0.1
_MARKERS = tuple({marker for template in TEMPLATES.values() for marker in template.stop_strings})


@dataclass(frozen=True)
class Sign:
    """One number of this run, in words; `bad` where it is beyond what is ordinary."""

    text: str
    bad: bool = False


@dataclass(frozen=True, kw_only=True)
class FailureMode:
    """A failure, how to recognise it, what this run shows of it, and the command that looks closer."""

    name: str
    symptom: str
    signs: tuple[Sign, ...]
    command: str

    @property
    def suspected(self) -> bool:
        return any(sign.bad for sign in self.signs)


Answers = Mapping[str, Sequence[Response]]


def failure_modes(
    answers: Answers, train: Mapping[str, Any], quality: Mapping[str, Any], judges: Sequence[JudgeResults]
) -> list[FailureMode]:
    """All modes in the order of the pipeline.

    `answers` are the systems' by name, the primary one last; `train` and `quality` are metrics/train.json and
    data.json, empty if there are none.
    """
    return [
        FailureMode(
            name="Malformed formatting",
            symptom="Answers go on with a turn of their own (another header), are empty, or say the question again.",
            signs=(
                *_share(answers, "ran into the next turn's header", lambda one: one.stop_reason == "stop_string", FEW),
                *_share(answers, "hold a header of the template", _holds_marker, 0.0),
                *_share(answers, "are empty", lambda one: not one.response.strip(), FEW),
                *_share(answers, "are the instruction or the input again", _echoes, FEW),
                *_finding(quality, "template_markers", "hold a marker of a template"),
            ),
            command="instruct check",
        ),
        FailureMode(
            name="Mask bugs",
            symptom="Prompt tokens carry loss, so it starts far too low; or the end token carries none, so that "
            "answers never end.",
            signs=(
                *_targets(train, quality),
                *_first_loss(train),
                *_share(answers, "did not end by themselves", lambda one: one.stop_reason == "length", SOME),
            ),
            command="instruct inspect -n 2",
        ),
        FailureMode(
            name="Repetition",
            symptom="Answers say the same words or the same sentence over and over, often up to the last token.",
            signs=(
                *_share(answers, "repeat themselves", lambda one: find_repetition(one.response) is not None, FEW),
                *_share(answers, "were stopped for it", lambda one: one.stop_reason == "repetition", FEW),
                *_finding(quality, "repetition", "have an answer that repeats itself"),
            ),
            command="dvc exp run -S generate.max_repeats=4",
        ),
        FailureMode(
            name="Parser errors",
            symptom="Verdicts without a score: the judge replied with no number, with several, or not at all.",
            signs=tuple(_unscored(judges)),
            command="instruct judge --check",
        ),
        FailureMode(
            name="Cut texts",
            symptom="A limit of tokens took the ends of prompts or responses: the model learns or answers halves.",
            signs=(
                *_share(answers, "had a prompt that was cut", lambda one: one.truncated_tokens > 0, 0.0),
                *_cut_in_training(train),
                *_longest(quality),
            ),
            command="instruct check",
        ),
    ]


def _share(answers: Answers, what: str, has: Callable[[Response], bool], ordinary: float) -> Iterator[Sign]:
    """How many answers of each system have something; bad if more of the primary ones do than is ordinary."""
    counts = {system: sum(map(has, responses)) for system, responses in answers.items()}
    if not all(answers.values()):
        return
    shown = ", ".join(f"{system} {count} of {len(answers[system])}" for system, count in counts.items())
    primary = list(answers)[-1]
    yield Sign(f"answers that {what}: {shown}", counts[primary] > ordinary * len(answers[primary]))


def _holds_marker(one: Response) -> bool:
    return any(marker in one.response for marker in _MARKERS)


def _echoes(one: Response) -> bool:
    """Whether an answer is the question, where the question is not itself the right answer."""
    answer = " ".join(one.response.split())
    asked = {" ".join(text.split()) for text in (one.instruction, one.input)} - {""}
    return answer in asked and answer != " ".join(one.output.split())


def _finding(quality: Mapping[str, Any], name: str, what: str) -> Iterator[Sign]:
    finding = quality.get("findings", {}).get(name)
    if quality and finding:
        yield Sign(f"records that {what}: {finding['count']} of {quality['records']}", bool(finding["over"]))


def _targets(train: Mapping[str, Any], quality: Mapping[str, Any]) -> Iterator[Sign]:
    """The tokens that training learnt from, against the count of response tokens that the quality check made."""
    learnt = train.get("train", {})
    if not {"tokens", "response_tokens", "records"} <= set(learnt):
        return
    share = learnt["response_tokens"] / max(1, learnt["tokens"])
    text = f"response tokens in training: {learnt['response_tokens']:,} of {learnt['tokens']:,} ({share:.1%})"
    counted = quality.get("tokens", {}).get("parts", {}).get("train", {})
    whole = counted.get("counted") == learnt["records"] and not (learnt.get("truncated") or learnt.get("dropped"))
    if not whole:
        yield Sign(text)
        return
    same = (counted["tokens"], counted["response_tokens"]) == (learnt["tokens"], learnt["response_tokens"])
    yield Sign(f"{text}; counted apart from training: {counted['response_tokens']:,}", not same)


def _first_loss(train: Mapping[str, Any]) -> Iterator[Sign]:
    """Loss at the first step against validation before it: both are of untrained weights, so they are alike."""
    if {"first_train_loss", "initial_val_loss"} <= set(train):
        first, val = train["first_train_loss"], train["initial_val_loss"]
        bad = not val / 3 <= first <= val * 3
        yield Sign(f"loss before training: {first:.2f} on the first batch, {val:.2f} on validation", bad)


def _unscored(judges: Sequence[JudgeResults]) -> Iterator[Sign]:
    for judge in judges:
        missing = sum(one.unscored for one in judge.systems)
        total = missing + sum(one.scored for one in judge.systems)
        yield Sign(f"verdicts of {judge.name} without a score: {missing} of {total}", missing > 0)


def _cut_in_training(train: Mapping[str, Any]) -> Iterator[Sign]:
    for part in ("train", "val"):
        counts = train.get(part, {})
        if {"truncated", "dropped"} <= set(counts):
            text = f"{part} records: {counts['truncated']} cut, {counts['dropped']} dropped for their length"
            yield Sign(text, counts["truncated"] + counts["dropped"] > 0)


def _longest(quality: Mapping[str, Any]) -> Iterator[Sign]:
    tokens = quality.get("tokens")
    if tokens:
        yield Sign(f"longest record: {tokens['max']:,} tokens")
