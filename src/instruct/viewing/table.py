"""The table of runs: which columns there are, and what stands in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from instruct.comparing.compare import ScoreChange
from instruct.core.parsing import mapping
from instruct.plotting.results import MEASURES
from instruct.statistics import ALPHA
from instruct.viewing.differences import compare_with, find_reasons
from instruct.viewing.runs import Run, finite

TONES = {"better": "good", "worse": "bad"}
SHOWN_SETTINGS = 3  # columns of settings that are shown at first; all others can be switched on
Value = float | str | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column; `best` says which end of it is sorted to the top first."""

    key: str
    label: str
    number: bool = True
    shown: bool = True
    best: str = "descending"
    title: str = ""

    @property
    def head(self) -> Markup:
        """The label with places to break the line inside a setting's name."""
        return Markup("{}").format(self.label).replace(".", Markup(".<wbr>")).replace("_", Markup("_<wbr>"))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows, in two sizes, and the value that it is sorted by."""

    text: str = ""
    small: str = ""
    value: Value = None
    tone: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run's cells by column, and what its name cell says beside them."""

    run: Run
    note: str
    cells: dict[str, Cell] = field(default_factory=dict)


def build_table(runs: Sequence[Run], names: Mapping[str, str], against: int) -> tuple[list[Column], list[Row]]:
    """Columns and rows for all runs; `against` is the place of the run that the others are compared with."""
    settings = varying_settings(runs)
    judges = {name for run in runs for name in run.evaluate.get("judges", {})}
    ranked = sorted(judges, key=lambda name: (all(run.judge != name for run in runs), name))
    columns = [*score_columns(ranked, runs[against]), *training_columns(), *measure_columns()]
    columns += [
        Column(key=f"set:{name}", label=name, number=_all_numbers(runs, name), shown=place < SHOWN_SETTINGS)
        for place, name in enumerate(settings)
    ]
    columns.append(Column(key="when", label="committed (UTC)", number=False, shown=False))
    differences = {judge: difference_cells(runs, runs[against], judge) for judge in ranked}
    rows = []
    for place, run in enumerate(runs):
        cells = {f"diff:{judge}": differences[judge][place] for judge in ranked}
        for judge in ranked:
            cells |= _score_cells(run, judge)
        rows.append(Row(run=run, note=_origin(run, names), cells=cells | _other_cells(run, runs[against], settings)))
    return columns, rows


def difference_cells(runs: Sequence[Run], against: Run, judge: str) -> list[Cell]:
    """Each run's difference from one of them by a judge, or the reasons why there is none."""
    reasons = [_reasons(against, run, judge) for run in runs]
    sides = [run.comparable for run, why in zip(runs, reasons, strict=True) if run.comparable and not why]
    changes = iter(compare_with(against.comparable, sides, judge) if against.comparable and sides else ())
    return [
        Cell(text=why[0], small="; ".join(why[1:]), value=0.0 if run is against else None)
        if why
        else _change_cell(next(changes))
        for run, why in zip(runs, reasons, strict=True)
    ]


def varying_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that are not the same in all runs that have any, those that differ most often first."""
    known = [run.params for run in runs if run.params]
    keys = dict.fromkeys(key for params in known for key in params)
    variety = {key: {repr(params.get(key)) for params in known} for key in keys}
    usual = known[0] if known else {}
    changed = {key: sum(params.get(key) != usual.get(key) for params in known) for key in keys if len(variety[key]) > 1}
    return sorted(changed, key=lambda key: -changed[key])


def score_columns(judges: Sequence[str], against: Run) -> list[Column]:
    """For each judge the tuned model's mean, its gain on base, and the paired difference from one run."""
    columns = []
    for place, judge in enumerate(judges):
        of = f" ({judge})" if len(judges) > 1 else ""
        name, first = against.name, place == 0
        columns += [
            Column(
                key=f"score:{judge}",
                label=f"score{of}",
                shown=place < 2,
                title=f"mean score of the tuned model by {judge}",
            ),
            Column(key=f"gain:{judge}", label=f"gain on base{of}", shown=first, title="tuned minus untuned backbone"),
            Column(
                key=f"diff:{judge}", label=f"against {name}{of}", shown=first, title=f"paired difference from {name}"
            ),
            Column(key=f"unscored:{judge}", label=f"not scored{of}", shown=False, best="ascending"),
        ]
    return columns


def training_columns() -> list[Column]:
    """Losses and steps."""
    return [
        Column(key="val_loss", label="best val loss", best="ascending", title="nats per supervised token"),
        Column(key="train_loss", label="last train loss", shown=False, best="ascending"),
        Column(key="steps", label="steps", shown=False),
    ]


def measure_columns() -> list[Column]:
    """Means of likeness to the reference answer."""
    return [Column(key=f"measure:{key}", label=label, shown=False) for key, label in MEASURES.items()]


def _reasons(against: Run, run: Run, judge: str) -> list[str]:
    """What stands in a cell of differences in place of a number: what it is, then why, one line each."""
    if run is against:
        return ["(this run)"]
    if not all(judge in mapping(side.evaluate.get("judges")) for side in (against, run)):
        return ["not judged"]
    if against.comparable and run.comparable:
        why = find_reasons(against.comparable, run.comparable, judge)
    else:
        why = [f"{side.name}: {side.refusal}" for side in (against, run) if not side.comparable]
    return ["not comparable", *why] if why else []


def _other_cells(run: Run, against: Run, settings: Sequence[str]) -> dict[str, Cell]:
    """Losses, measures of likeness, settings and the date."""
    cells = {
        "val_loss": _number(run.train.get("best_val_loss"), "{:.3f}"),
        "train_loss": _number(run.train.get("last_train_loss"), "{:.3f}"),
        "steps": _number(run.train.get("steps"), "{:.0f}"),
        "when": Cell(text=run.revision.when[:16].replace("T", " "), value=run.revision.when or None),
    }
    measured = mapping(run.evaluate.get("reference")).get("tuned", {})
    cells |= {f"measure:{key}": _number(measured.get(key), "{:.1f}") for key in MEASURES}
    return cells | {f"set:{key}": _setting(run.params, against.params, key) for key in settings}


def _origin(run: Run, names: Mapping[str, str]) -> str:
    """Where an experiment began."""
    start = run.revision.baseline
    return f"from {names.get(start, start[:7])}" if start else ""


def _score_cells(run: Run, judge: str) -> dict[str, Cell]:
    """A judge's mean of the tuned model, its gain on the base model, and what has no score."""
    found = run.evaluate.get("judges", {}).get(judge)
    if not found:
        return {}
    cells = {f"unscored:{judge}": _number(found["tuned"].get("unscored"), "{:.0f}")}
    if tuned := _numbers(found["tuned"], ("mean",)):
        interval = _numbers(found["tuned"], ("low", "high"))
        small = f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
        cells[f"score:{judge}"] = Cell(text=f"{tuned[0]:.1f}", small=small, value=tuned[0])
    if numbers := _numbers(found["difference"], ("mean", "low", "high", "p_value")):
        mean, low, high, p_value = numbers
        tone = ("good" if mean > 0 else "bad") if p_value <= ALPHA else ""
        cells[f"gain:{judge}"] = Cell(text=f"{mean:+.1f}", small=f"{low:+.1f} to {high:+.1f}", value=mean, tone=tone)
    return cells


def _change_cell(change: ScoreChange) -> Cell:
    """Difference and verdict, and in small the interval, the p-value and what the test could have found."""
    one, verdict = change.difference, change.verdict
    why = (
        change.in_words.removeprefix(verdict)
        .strip(" ()")
        .replace("smallest detectable: ", "smallest\u00a0detectable:\u00a0")
    )
    small = f"{one.low:+.1f} to {one.high:+.1f}, p\u00a0=\u00a0{change.corrected:.2g}{f'; {why}' if why else ''}"
    said = verdict.replace(" ", "\u00a0")
    return Cell(text=f"{one.mean:+.1f} {said}", small=small, value=one.mean, tone=TONES.get(verdict, ""))


def _numbers(values: Mapping[str, Any], keys: Sequence[str]) -> list[float]:
    """The numbers of these names; none where one of them is absent."""
    found = [number for key in keys if (number := finite(values.get(key))) is not None]
    return found if len(found) == len(keys) else []


def _number(value: Any, form: str) -> Cell:
    number = finite(value)
    return Cell() if number is None else Cell(text=form.format(number), value=number)


def _setting(params: Mapping[str, Any], usual: Mapping[str, Any], key: str) -> Cell:
    if key not in params:
        return Cell()
    value = params[key]
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    shown = finite(value) if isinstance(value, int | float) and not isinstance(value, bool) else text
    return Cell(text=text, value=shown, tone="changed" if value != usual.get(key) else "")


def _all_numbers(runs: Sequence[Run], key: str) -> bool:
    values = [run.params[key] for run in runs if key in run.params]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
