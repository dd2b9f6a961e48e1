"""What a run found, in sentences that the log, the report and every comment share, and its table of systems."""

from collections.abc import Iterable, Iterator, Sequence

from instruct.results.schema import ACCURACY, DETAILS, HEADLINE, REFERENCE, SIMILARITY, Results
from instruct.results.scores import Difference, ScoreResults, SystemScores, verdict_of
from instruct.results.table import Table, count_groups
from instruct.statistics import holm

TITLES = {
    "base": "base model",
    "base-chat": "base model, own chat template",
    "base-few-shot": "base model with examples",
    "echo": "echo of the input",
    "nearest": "nearest training answer",
    "sft": "SFT model",
    "dpo": "DPO model",
}
BLIND = (
    "Similarity rewards an answer's form and does not see whether it is true; "
    "checks of closed questions do (split.checks, or a column `check`)."
)


def system_title(name: str) -> str:
    """A system in words; its own name where there are none for it."""
    return TITLES.get(name, name)


def score_title(name: str) -> str:
    """A score of the headline or its details in words; a judge's own name."""
    return (HEADLINE | DETAILS).get(name, name)


def describe_difference(
    one: Difference, score: str = "", adjusted: float | None = None, groups: int | None = None
) -> str:
    """One sentence: a system against another, better, worse or not distinguishable, with interval, p and n.

    `score` names in print what is compared, where that is not said beside the sentence. With an `adjusted` p-value
    the sentence is exploratory, and that p-value decides. `groups` is how many groups of near-duplicates the records
    are in: interval and p-value count each of them once.
    """
    if one.mean is None:
        return "No record has a score for both systems, so nothing can be said."
    system, against = system_title(one.system), system_title(one.against)
    fewer = groups is not None and groups < one.count
    over = f"{one.count} records" + (f" in {groups} group{'s' * (groups != 1)} of near-duplicates" if fewer else "")
    numbers = f"{_numbers(one, adjusted)} over {over}: {one.wins} won, {one.ties} tied, {one.losses} lost"
    of, role = f" in {score}" if score else "", "" if adjusted is None else "Exploratory: "
    verdict = one.verdict if adjusted is None else verdict_of(one.mean, adjusted, turned=one.turned)
    if verdict == "not distinguishable":
        turned = "; missing scores could turn it" if one.turned else ""
        return f"{role}{system} and {against} are not distinguishable{of}: {numbers}{turned}."
    return f"{role}{system} is {verdict} than {against}{of}: {numbers}."


def describe_exploratory(found: Sequence[tuple[Difference, str, int | None]]) -> list[str]:
    """A sentence for each difference in a score that does not decide, p-values adjusted for their number (Holm).

    Each comes with the name of its score in print, and the number of groups.
    """
    adjusted = holm([1.0 if one.p_value is None else one.p_value for one, *_ in found])
    return [
        describe_difference(one, score, p_value, groups)
        for (one, score, groups), p_value in zip(found, adjusted, strict=True)
    ]


def judge_verdicts(results: Results, table: Table) -> dict[str, str]:
    """What each judge says of the primary system: exploratory unless its score is the primary one."""
    first = results.headline[0]
    same = REFERENCE if first.name == SIMILARITY else first.name
    found = {judge.name: judge.difference_of(results.primary) for judge in results.judges}
    others = {name: one for name, one in found.items() if name != same}
    groups = {name: count_groups(table, name, one) for name, one in found.items()}
    said = describe_exploratory([(one, "", groups[name]) for name, one in others.items()])
    alone = {name: describe_difference(one, groups=groups[name]) for name, one in found.items()}
    return alone | dict(zip(others, said, strict=True))


def headline_lines(results: Results, table: Table) -> Iterator[str]:
    """What is to be said first: the verdict against the best baseline, and what qualifies it."""
    first = results.headline[0]
    difference = first.difference_of(results.primary)
    yield describe_difference(
        difference, HEADLINE.get(first.name, ""), groups=count_groups(table, first.name, difference)
    )
    among = len(results.baselines)
    best = (
        f"the best of {among} baselines, {system_title(results.against)},"
        if among > 1
        else system_title(results.against)
    )
    if difference.verdict != "better":
        yield f"The {system_title(results.primary)} does not beat {best} in {score_title(first.name)}."
    elif among > 1:
        yield f"{system_title(results.against)} is the best of {among} baselines in {score_title(first.name)}."
    yield from step_lines(results, table)
    if first.name == SIMILARITY:
        yield BLIND
    yield from form_lines(results)


def step_lines(results: Results, table: Table) -> Iterator[str]:
    """What preference tuning did to the model that it began with: each score, who wins by judges of pairs, lengths.

    The primary score decides; the others are exploratory.
    """
    if not results.previous:
        return
    first, *others = results.headline
    scored = [(one, HEADLINE.get(one.name, "")) for one in (first, *others)]
    scored += [(one, f"the score by {one.name}") for one in results.judges if one.name not in (REFERENCE, first.name)]
    (deciding, name, groups), *steps = [
        (step, name, count_groups(table, one.name, step))
        for one, name in scored
        if (step := one.step_of(results.primary)) is not None
    ]
    yield describe_difference(deciding, name, groups=groups)
    yield from describe_exploratory(steps)
    for judge in results.judges:
        if judge.against == results.previous and judge.scores_of(results.primary).orders:
            found = judge.scores_of(results.primary)
            yield (
                f"{judge.name}, asked in both orders, gives the {system_title(results.primary)} {found.mean:.1f} % of "
                f"the wins, a tie being half: {describe_orders(found)}."
            )
    lengths = [
        f"{system_title(name)} {results.system(name).mean_tokens:.1f}" for name in (results.previous, results.primary)
    ]
    yield f"Mean length of an answer in tokens: {', '.join(lengths)}."


def form_lines(results: Results) -> Iterator[str]:
    """A line where the answers to closed questions came nearer to the references, and not surely more often right."""
    found = {one.name: one.difference_of(results.primary) for one in results.measured}
    if not {ACCURACY, "closed_similarity"} <= set(found):
        return
    right, near = found[ACCURACY], found["closed_similarity"]
    if near.verdict == "better" and right.verdict != "better":
        rises = f"On closed questions similarity rises by {_numbers(near)}"
        if right.verdict == "worse" or right.wins == 0:
            yield f"{rises}, right answers do not ({_numbers(right)}): the answers gained form, not truth."
        else:
            more = f" ({_numbers(right)})" if right.mean is not None else ""
            yield f"{rises}; whether more answers are right is not shown{more}."


def headline_rows(results: Results) -> Iterator[tuple[str, ...]]:
    """The table of all systems: a row of heads, then one a system; below each mean its 95 % interval.

    With a preference-tuned system: also its difference from the system before, and lengths in tokens.
    """
    scores, previous = results.headline, results.previous
    more = (f"against {previous}", "tokens") if previous else ()
    heads = (f"{score_title(one.name)} ({_count(one)})" for one in scores)
    yield ("system", *heads, f"against {results.against}", *more)
    for name in results.names:
        means = [one.scores_of(name) for one in scores]
        cells = ["none" if one.mean is None else f"{one.mean:.1f} ({one.low:.1f} to {one.high:.1f})" for one in means]
        against = "best baseline" if name == results.against else _change(scores[0].difference_of(name))
        step = scores[0].step_of(name)
        further = (_change(step) if step else "", f"{results.system(name).mean_tokens:.1f}") if previous else ()
        yield (name, *cells, against, *further)


def describe_orders(one: SystemScores) -> str:
    """How far a share of wins depends on which answer stands first."""
    share = "no verdict has a winner"
    if one.first_place_won is not None:
        share = f"the first place won {100 * one.first_place_won:.0f} % of the verdicts with a winner"
    return f"both orders agree in {one.consistent} of {one.orders} pairs, and {share}"


def judge_lines(results: Results) -> Iterator[str]:
    """One line for each judge and system: the mean and its denominator; of a share of wins also the two orders."""
    for judge in results.judges:
        for one in judge.systems:
            mean = "no mean" if one.mean is None else f"mean {one.mean:.1f}"
            total = one.scored + one.unscored
            orders = f"; {describe_orders(one)}" if one.orders else ""
            yield f"{judge.name}, {one.system}: {mean} over {one.scored} of {total} ({one.unscored} not scored){orders}"


def align(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines whose columns begin at the same place."""
    known = list(rows)
    widths = [max(map(len, column)) for column in zip(*known, strict=True)]
    for row in known:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _change(one: Difference) -> str:
    return "none" if one.mean is None else f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})"


def _count(one: ScoreResults) -> int:
    return one.systems[0].scored + one.systems[0].unscored


def _numbers(one: Difference, adjusted: float | None = None) -> str:
    p_value = f"p = {one.p_value:.2g}" + ("" if adjusted is None else f", adjusted {adjusted:.2g}")
    return f"{one.mean:+.1f} points (95 % interval {one.low:+.1f} to {one.high:+.1f}, {p_value})"
