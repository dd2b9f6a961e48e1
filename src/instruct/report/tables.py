"""The tables of every page and of the Markdown comment: made once, from what was found, and only then rendered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instruct.report.failure_modes import FailureMode
from instruct.report.stop_or_go import Signal
from instruct.results.headline import describe_orders, headline_rows, score_title, system_title
from instruct.results.schema import CORPUS_MEASURES, MEASURES, Agreement, JudgeResults, Results, Unscored
from instruct.results.scores import Slice

NONE = "none"


@dataclass(frozen=True)
class Cell:
    """What a cell shows, in two sizes; `tone` is good, bad, warn, strong, code or text. `lines` are below it, small."""

    text: str
    small: str = ""
    tone: str = ""
    lines: tuple["Cell", ...] = ()


Row = Sequence[Cell | str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows; one of `words` is read like text, on a narrow screen line by line."""

    name: str
    head: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    words: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """All rows, with every text a cell."""
        return [[Cell(one) if isinstance(one, str) else one for one in row] for row in self.rows]


def number(value: float | None, form: str = "{:.1f}") -> str:
    """A number as it is shown, or that there is none."""
    return NONE if value is None else form.format(value)


def interval(low: float | None, high: float | None, form: str = "{:.1f}") -> str:
    """An interval, or nothing."""
    return "" if low is None or high is None else f"{form.format(low)} to {form.format(high)}"


def plain(name: str) -> str:
    """A name of a setting, kind or reason as words."""
    return name.replace("_", " ")


def system_table(results: Results) -> Table:
    """All systems in one table: every score of the headline, and the primary one against the best baseline's."""
    head, *rows = headline_rows(results)
    first, place = score_title(results.headline[0].name), 1 + len(results.headline)
    more = (f"{first} − {system_title(results.previous)}", "tokens of an answer") if results.previous else ()
    return Table(
        name="All systems",
        caption="Means from 0 to 100 with their 95 % intervals; right answers are a percentage.",
        head=(*head[:place], f"{first} − {system_title(results.against)}", *more),
        rows=[(system_title(name), *cells) for name, *cells in rows],
    )


def score_table(judge: JudgeResults, score_name: str, shown: Sequence[str]) -> Table:
    """One judge's scores of the systems to be shown, and of each against the best baseline."""
    systems = [one for one in judge.systems if one.system in shown]
    changes = [one for one in judge.differences if one.system in shown]
    gap = [""] * len(changes)
    rows: list[Row] = [
        (
            "mean",
            *(Cell(number(one.mean), interval(one.low, one.high)) for one in systems),
            *(Cell(number(one.mean, "{:+.1f}"), interval(one.low, one.high, "{:+.1f}")) for one in changes),
        ),
        (
            "records scored",
            *(str(one.scored) for one in systems),
            *(Cell(str(one.count), "in both") for one in changes),
        ),
        ("not scored", *(str(one.unscored) for one in systems), *gap),
    ]
    if any(one.unscored for one in systems) and any(one.scored for one in systems):
        cells = (Cell(number(one.worst_case), f"or {number(one.best_case)}") for one in systems)
        rows.append(("mean if those were 0, or 100", *cells, *gap))
    quartiles = [" / ".join(number(part, "{:.0f}") for part in (one.q1, one.median, one.q3)) for one in systems]
    rows.append(
        ("quartiles", *(NONE if one.mean is None else q for one, q in zip(systems, quartiles, strict=True)), *gap)
    )
    won = [
        Cell(f"{one.wins} / {one.ties} / {one.losses}", f"p = {one.p_value:.2g}") if one.p_value is not None else ""
        for one in changes
    ]
    rows.append(("won / tied / lost", *[""] * len(systems), *won))
    orders = next((f" Shares of wins: {describe_orders(one)}." for one in judge.systems if one.orders), "")
    return Table(
        name=f"Scores by {judge.name}",
        caption=f"{judge.name}: {score_name}, from 0 to 100; below each mean its 95 % interval.{orders}",
        head=("score", *(system_title(one.system) for one in systems), *(f"{c.system} − {c.against}" for c in changes)),
        rows=rows,
    )


def measure_table(results: Results) -> Table:
    """Means of the measures that need no judge."""
    first = results.system(results.against)
    systems = [results.system(name) for name in results.shown]
    others = [one for one in systems if one is not first]
    rows: list[Row] = []
    for key, label in (MEASURES | CORPUS_MEASURES).items():
        if key not in first.measures:
            continue
        values = [one.measures[key] for one in systems]
        changes = [f"{one.measures[key] - first.measures[key]:+.1f}" for one in others]
        rows.append((label, *map(number, values), *changes))
    heads = (*map(system_title, results.shown), *(f"{one.name} − {first.name}" for one in others))
    caption = "Right answers to closed questions, and similarity to the reference answer: means from 0 to 100."
    return Table(name="Measures", caption=caption, head=("measure", *heads), rows=rows)


def slice_table(name: str, rows: Sequence[Slice]) -> Table:
    """One property's slices: every system's mean, and the differences where the records are the same for all."""
    changes, systems = rows[0].differences, rows[0].systems
    made: list[Row] = []
    for row in rows:
        means = (Cell(number(one.mean), "" if changes else f"{one.records} answers") for one in row.systems)
        cells = (Cell(number(one.mean, "{:+.1f}"), interval(one.low, one.high, "{:+.1f}")) for one in row.differences)
        made.append((plain(row.value), *means, *cells, *([str(row.systems[0].records)] if changes else [])))
    heads = (*(system_title(one.system) for one in systems), *(f"{c.system} − {c.against}" for c in changes))
    return Table(
        name=f"Slices by {plain(name)}",
        head=(plain(name), *heads, *(["records"] if changes else [])),
        rows=made,
    )


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Every pair of judges, on each system's answers."""
    rows = [
        (
            f"{one.first} ~ {one.second}",
            one.system or "all",
            *(number(value, "{:.2f}") for value in (one.pearson, one.spearman, one.kendall, one.kappa)),
            number(one.mean_difference, "{:+.1f}"),
            str(one.count),
        )
        for one in found
    ]
    return Table(
        name="Agreement",
        caption="Over those of a system's answers that both have scored; kappa on five bands. With a judge of "
        "pairs: on the system's wins (100), ties (50) and losses (0) against the other one.",
        head=("judges", "system", "Pearson", "Spearman", "Kendall", "kappa", "mean difference", "answers"),
        rows=rows,
    )


def unscored_table(found: Sequence[tuple[str, Unscored]]) -> Table:
    """Answers without a score, each with its judge."""
    rows = [
        (Cell(one.id, f"{one.system}, {judge}"), one.problem, Cell(one.raw_reply or "(empty)", tone="text"))
        for judge, one in found
    ]
    caption = "Each with how the judge's reply began and why it gave no score; all of it is in data/judgements.json."
    return Table(name="Unscored", caption=caption, head=("record", "cause", "raw reply"), rows=rows, words=True)


def signal_table(signals: Sequence[Signal]) -> Table:
    """What to do next, and why."""
    rows = [
        (
            one.signal,
            Cell(one.finding, "" if one.signal == "next step" else one.numbers, "strong"),
            one.suggestion,
        )
        for one in signals
    ]
    caption = "Signals by stated rules, and the step that they suggest."
    return Table(name="What next", caption=caption, head=("signal", "found", "suggests"), rows=rows, words=True)


def failure_table(modes: Sequence[FailureMode]) -> Table:
    """How instruction tuning goes wrong, and what this run shows of it."""
    rows = []
    for mode in modes:
        signs = tuple(Cell(sign.text, tone="warn" if sign.bad else "") for sign in mode.signs)
        found = Cell("", lines=signs or (Cell("no number to tell by"),))
        rows.append((mode.name, mode.symptom, found, Cell(mode.command, tone="code")))
    return Table(
        name="Failure modes",
        caption="How each shows, what this run shows of it, and the command that looks closer.",
        head=("failure", "how to recognise it", "in this run", "look closer with"),
        rows=rows,
        words=True,
    )


def finding_table(quality: Mapping[str, Any]) -> Table:
    """What the quality check looked for."""
    rows = []
    for name, one in sorted(quality["findings"].items()):
        failed = one["action"] == "fail"
        gate = Cell("failed" if failed else "warning", tone="bad" if failed else "warn") if one["over"] else "passed"
        share = f"{100 * one['share']:.1f} %" if one["count"] else ""
        rows.append((plain(name), Cell(str(one["count"]), share), f"{100 * one['max_share']:.1f} %", gate))
    return Table(
        name="Findings",
        caption="What was looked for, how many records have it, and the largest share that is let through.",
        head=("finding", "records", "let through", "gate"),
        rows=rows,
    )


def length_table(tokens: Mapping[str, Any]) -> Table:
    """Lengths of the records in tokens."""
    parts = [(name, tokens[name]) for name in ("prompt", "response", "total") if tokens[name]]
    rows = [(name, str(one["min"]), f"{one['p50']:.0f}", f"{one['p95']:.0f}", str(one["max"])) for name, one in parts]
    return Table(
        name="Lengths",
        caption=f"Lengths in tokens of {tokens['tokenizer']} under the template {tokens['template']}, over "
        f"{tokens['counted']} of {tokens['records']} records.",
        head=("tokens", "least", "median", "95 % up to", "most"),
        rows=rows,
    )
