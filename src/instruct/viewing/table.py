"""The table of runs: which columns there are, and what stands in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from instruct.evaluation.statistics import Paired, paired_test
from instruct.plotting.results import MEASURES
from instruct.plotting.verdict import ALPHA
from instruct.viewing.runs import Run

RESAMPLES = 2000
SEED = 123
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
    judges = sorted(
        {name for run in runs for name in run.results.get("judges", {})}, key=lambda name: _rank(runs, name)
    )
    columns = [*score_columns(judges, runs[against]), *training_columns(), *measure_columns()]
    columns += [
        Column(key=f"set:{name}", label=name, number=_all_numbers(runs, name), shown=place < SHOWN_SETTINGS)
        for place, name in enumerate(settings)
    ]
    columns.append(Column(key="when", label="committed", number=False, shown=False))
    return columns, [_row(run, runs[against], judges, settings, names) for run in runs]


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
        name, first = against.revision.name, place == 0
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


def comparable(one: Run, other: Run, judge: str) -> str:
    """Empty where two runs' scores mean the same thing, else what differs."""
    if judge not in one.results.get("judges", {}) or judge not in other.results.get("judges", {}):
        return "not judged"
    for key, word in (("sha256", "test set"), ("template_sha256", "template"), ("records", "test set")):
        if one.results["test"].get(key) != other.results["test"].get(key):
            return f"other {word}"
    mine, its = one.results["judges"][judge], other.results["judges"][judge]
    if mine.get("rubric_sha256") != its.get("rubric_sha256"):
        return "other rubric"
    return "" if mine.get("identity") == its.get("identity") else "other judge"


def compare_runs(one: Run, other: Run, judge: str) -> tuple[Paired | None, str]:
    """The tuned answers of `one` against those of `other`, record by record; or None and why not."""
    reason = comparable(one, other, judge)
    if reason:
        return None, reason
    mine, its = one.scores.get(judge, {}), other.scores.get(judge, {})
    both = [(before, after) for key, after in mine.items() if key[0] == "tuned" for before in [its.get(key)]]
    pairs = [(before, after) for before, after in both if before is not None and after is not None]
    if not pairs:
        return None, "no scores of single records"
    before, after = zip(*pairs, strict=True)
    return paired_test(before, after, resamples=RESAMPLES, seed=SEED), ""


def _row(run: Run, against: Run, judges: Sequence[str], settings: Sequence[str], names: Mapping[str, str]) -> Row:
    cells: dict[str, Cell] = {}
    for judge in judges:
        cells |= _score_cells(run, against, judge)
    for key, name, form in (
        ("val_loss", "best_val_loss", "{:.3f}"),
        ("train_loss", "last_train_loss", "{:.3f}"),
        ("steps", "steps", "{:.0f}"),
    ):
        cells[key] = _number(run.train.get(name), form)
    for key in MEASURES:
        cells[f"measure:{key}"] = _number(run.results.get("reference", {}).get("tuned", {}).get(key), "{:.1f}")
    for key in settings:
        cells[f"set:{key}"] = _setting(run.params, against.params, key)
    when = run.revision.when
    cells["when"] = Cell(text=when[:16].replace("T", " "), value=when or None)
    note = f"from {names.get(run.revision.baseline, run.revision.baseline[:7])}" if run.revision.baseline else ""
    return Row(run=run, note=note, cells=cells)


def _score_cells(run: Run, against: Run, judge: str) -> dict[str, Cell]:
    found = run.results.get("judges", {}).get(judge)
    if not found:
        return {}
    tuned, difference = found["tuned"], found["difference"]
    cells = {f"unscored:{judge}": _number(tuned["unscored"], "{:.0f}")}
    if tuned["scored"]:
        spread = f"{tuned['low']:.1f} to {tuned['high']:.1f}" if "low" in tuned else ""
        cells[f"score:{judge}"] = Cell(text=f"{tuned['mean']:.1f}", small=spread, value=tuned["mean"])
    if difference["count"]:
        cells[f"gain:{judge}"] = _difference_cell(
            difference["mean"], difference["low"], difference["high"], difference["p_value"], verdict=False
        )
    if run is against:
        cells[f"diff:{judge}"] = Cell(text="is the measure", value=0.0)
        return cells
    paired, reason = compare_runs(run, against, judge)
    if paired is None:
        cells[f"diff:{judge}"] = Cell(text=reason)
    else:
        one = paired.difference
        cells[f"diff:{judge}"] = _difference_cell(one.mean, one.low, one.high, paired.p_value, verdict=True)
    return cells


def _difference_cell(mean: float, low: float, high: float, p_value: float, *, verdict: bool) -> Cell:
    said, tone = "not distinguishable", ""
    if p_value <= ALPHA:
        said, tone = ("better", "good") if mean > 0 else ("worse", "bad")
    interval = f"{low:+.1f} to {high:+.1f}"
    if not verdict:
        return Cell(text=f"{mean:+.1f}", small=interval, value=mean, tone=tone)
    return Cell(text=f"{mean:+.1f} {said}", small=f"{interval}, p = {p_value:.2g}", value=mean, tone=tone)


def _number(value: Any, form: str) -> Cell:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text=form.format(value), value=float(value)) if good else Cell()


def _setting(params: Mapping[str, Any], usual: Mapping[str, Any], key: str) -> Cell:
    if key not in params:
        return Cell()
    value = params[key]
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text=text, value=float(value) if plain else text, tone="changed" if value != usual.get(key) else "")


def _all_numbers(runs: Sequence[Run], key: str) -> bool:
    values = [run.params[key] for run in runs if key in run.params]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _rank(runs: Sequence[Run], judge: str) -> tuple[bool, str]:
    return (all(run.judge != judge for run in runs), judge)
