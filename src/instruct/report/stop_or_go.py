"""Whether to go on and with what: four signals, each by a stated rule from the metrics, and the step they suggest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan
from typing import Any, Literal

from instruct.core.parsing import is_number
from instruct.results.headline import score_title, system_title
from instruct.results.runs import Run
from instruct.results.schema import ACCURACY, REFERENCE, JudgeResults
from instruct.results.scores import Difference, SystemScores
from instruct.statistics import ALPHA

FLAT = 0.01  # of the best validation loss: a smaller change is not a trend
GOOD = 80.0  # points: answers of which more of the same is not what helps most
UNSCORED = 0.05  # share of verdicts without a score that a judge may leave
WIDE = 5.0  # points to either side of a difference, from which its interval tells little
MORE_RECORDS = {ACCURACY: "more test records", REFERENCE: "more test records, or checks (split.checks)"}
"""What narrows the interval of a score by rule, which no other judge, rubric or repeat can do."""
ONLY_WIDE = "noisy: the interval is wide"
FOUND = {"better": "rising", "worse": "falling", "not distinguishable": "plateau"}
WHAT_THEN = {
    "rising": "more of what the last step did",
    "falling": "take the last step back",
    "plateau": "another kind of step than the last one",
}
Step = Literal["more data", "better judging", "longer training", "shorter training", "preference tuning", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One signal: the rule in words, the numbers it was applied to, what it found, and what to do next."""

    signal: Literal["loss trend", "answer quality", "score plateau", "score noise", "next step"]
    rule: str
    numbers: str
    finding: str
    suggestion: str


@dataclass(frozen=True, kw_only=True)
class Movement:
    """What a comparison with the run before found of its primary score, and its numbers in words."""

    verdict: Literal["better", "worse", "not distinguishable"]
    numbers: str


def stop_or_go(run: Run, judge: JudgeResults, movement: Movement | None = None) -> list[Signal]:
    """The matrix for one run's primary system: a row for each signal and one for the next step.

    `movement` says how the score moved since the run before, if there is one. Quality and noise are of the score that
    is acted on: right answers if there are any, else the judge's.
    """
    results = run.results
    scores = judge.scores_of(results.primary)
    first = results.headline[0] if ACCURACY in results.measures else judge
    difference = first.difference_of(results.primary)
    curve = run.curves["val"]
    trend, quality = loss_trend(curve), answer_quality(first.scores_of(results.primary), difference, first.name)
    plateau = score_plateau(movement)
    noise = score_noise(scores, judge.difference_of(results.primary), difference, first.name)
    before = _number(run.train, "initial_val_loss")
    losses = [row["loss"] for row in curve if row["step"]]
    best = min(losses, default=before) if all(map(isfinite, losses)) else nan
    return [trend, quality, plateau, noise, next_step(trend, quality, plateau, noise, before=before, best=best)]


def loss_trend(val_curve: Sequence[Mapping[str, float]]) -> Signal:
    """Whether validation loss still falls, has turned, or lies flat at the end of training."""
    rule = (
        f"turned if the last validation loss is more than {FLAT:.0%} above the lowest; falling if the last evaluation "
        f"lowered it by more than {FLAT:.0%}; else flat"
    )
    row = partial(Signal, signal="loss trend", rule=rule)
    losses = [row["loss"] for row in val_curve]
    if len(losses) < 3:
        return row(
            numbers=f"{len(losses)} evaluations",
            finding="unknown",
            suggestion="lower train.eval_every, so that at least three evaluations show a trend",
        )
    if not all(map(isfinite, losses)):
        return row(
            numbers=f"{sum(not isfinite(loss) for loss in losses)} of {len(losses)} losses are no finite number",
            finding="unknown",
            suggestion="a lower train.lr, or more train.warmup_steps: the loss has left the range of numbers",
        )
    best, before, last = min(losses), losses[-2], losses[-1]
    if last > best * (1 + FLAT):
        finding, suggestion = "turned", "shorter training (train.epochs, train.patience), or more data"
    elif before > last * (1 + FLAT):
        finding, suggestion = "falling", "longer training (train.epochs)"
    else:
        finding, suggestion = "flat", "more steps of the same will not help"
    numbers = f"lowest {best:.3f}, last but one {before:.3f}, last {last:.3f} nats per supervised token"
    return row(numbers=numbers, finding=finding, suggestion=suggestion)


def answer_quality(scores: SystemScores, difference: Difference, score: str) -> Signal:
    """Whether the answers are better than those of the system they are compared with, and good in themselves."""
    against = f"the {system_title(difference.against)}"
    rule = (
        f"better if the paired difference to {against} in {score_title(score)} has p up to {ALPHA:g} and missing "
        f"scores could not turn it; good from {GOOD:g} points"
    )
    row = partial(Signal, signal="answer quality", rule=rule)
    mean, change, p_value = scores.mean, difference.mean, difference.p_value
    if mean is None or change is None or p_value is None:
        return row(
            numbers="no answer has a score",
            finding="unknown",
            suggestion="better judging: mend the judge first",
        )
    numbers = f"mean {mean:.1f}, difference {change:+.1f}, p = {p_value:.2g}"
    if difference.verdict != "better":
        finding = f"worse than {against}" if difference.verdict == "worse" else f"no better than {against}"
        suggestion = "look at the data and the template before anything else"
    elif mean >= GOOD:
        finding, suggestion = "good", "what is left is a matter of preference"
    else:
        finding, suggestion = "better, not yet good", "more data, of the kinds with the lowest scores"
    return row(numbers=numbers, finding=finding, suggestion=suggestion)


def score_plateau(movement: Movement | None = None) -> Signal:
    """Whether the score moved against the run before."""
    rule = "rising or falling where `instruct compare` finds the primary score better or worse, else plateau"
    row = partial(Signal, signal="score plateau", rule=rule)
    if movement is None:
        again = "run a second one (`dvc exp run -S train.epochs=2`) and compare"
        return row(numbers="one run", finding="unknown", suggestion=again)
    found = FOUND[movement.verdict]
    return row(numbers=movement.numbers, finding=found, suggestion=WHAT_THEN[found])


def score_noise(scores: SystemScores, judged: Difference, difference: Difference, score: str) -> Signal:
    """Whether the scores can tell what is to be told.

    `scores` and `judged` are the judge's, `difference` is that of the `score` that is acted on.
    """
    of = score_title(score)
    rule = (
        f"noisy if more than {UNSCORED:.0%} of the judge's verdicts hold no score, the spread of repeats moves its "
        f"mean by more than the half-width of its difference's interval, or that in {of} exceeds {WIDE:g} points"
    )
    row = partial(Signal, signal="score noise", rule=rule)
    total = scores.scored + scores.unscored
    share = scores.unscored / max(total, 1)
    half, half_judged = _half_width(difference), _half_width(judged)
    if half is None or half_judged is None:
        numbers, reasons = f"{scores.unscored} of {total} without a score", ["nothing is scored"]
    else:
        spread = scores.mean_spread or 0.0
        repeats = f", repeats spread {spread:.1f}" if scores.mean_spread is not None else ""
        numbers = f"{share:.1%} without a score, difference in {of} {difference.mean:+.1f} ± {half:.1f}{repeats}"
        reasons = ["too many without a score"] * (share > UNSCORED)
        reasons += ["repeats disagree"] * (spread / max(scores.scored, 1) ** 0.5 > half_judged)
        reasons += ["the interval is wide"] * (half > WIDE)
    if not reasons:
        return row(numbers=numbers, finding="quiet", suggestion="the scores can be used")
    finding, suggestion = f"noisy: {', '.join(reasons)}", "another judge or rubric, more repeats, more test records"
    return row(
        numbers=numbers,
        finding=finding,
        suggestion=MORE_RECORDS.get(score, suggestion) if finding == ONLY_WIDE else suggestion,
    )


def next_step(trend: Signal, quality: Signal, plateau: Signal, noise: Signal, *, before: float, best: float) -> Signal:
    """The one step that the signals suggest, by the first rule of a list that holds.

    `before` is the validation loss before training, `best` the lowest since; either may be NaN.
    """
    rule = (
        "0. a loss that is not a finite number: unknown · "
        "1. noisy or unknown scores, unless answers are worse and only the interval is wide: better judging · "
        "2. loss turned: shorter training · 3. loss falling, or no lower "
        "than before training: longer training · 4. answers no better: more data (look at what there is first) · "
        "5. answers good or on a plateau: preference tuning · 6. else more data"
    )
    step: Step
    worse = quality.finding.startswith("worse than")
    noisy = noise.finding != "quiet" and not (worse and noise.finding == ONLY_WIDE)
    if not (isfinite(before) and isfinite(best)):
        step, why = "unknown", "losses are absent or no finite numbers: look at metrics/train.json and metrics/curves"
    elif noisy or quality.finding == "unknown":
        step, why = "better judging", f"the scores say too little: {noise.suggestion}"
    elif trend.finding == "turned":
        step, why = "shorter training", "it has begun to learn the training records by heart"
    elif trend.finding == "falling":
        step, why = "longer training", "validation loss has not settled"
    elif best >= before:
        step, why = "longer training", "nothing is learnt yet: more steps, or a higher train.lr"
    elif worse or quality.finding.startswith("no better than"):
        step, why = "more data", f"loss went from {before:.3f} to {best:.3f} and answers did not follow"
    elif quality.finding == "good" or plateau.finding == "plateau":
        step, why = "preference tuning", "imitation of the references has given what it can"
    else:
        step, why = "more data", f"loss trend {trend.finding}, and answers are better, but not yet good"
    numbers = " · ".join(f"{row.signal}: {row.finding}" for row in (trend, quality, plateau, noise))
    return Signal(signal="next step", rule=rule, numbers=numbers, finding=step, suggestion=why)


def _half_width(one: Difference) -> float | None:
    return None if one.low is None or one.high is None else (one.high - one.low) / 2


def _number(values: Mapping[str, Any], key: str) -> float:
    """A number of the metrics; NaN if it is absent, not a number or not finite."""
    value = values.get(key)
    return float(value) if is_number(value) and isfinite(value) else nan
