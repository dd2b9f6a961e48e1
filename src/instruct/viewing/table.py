"""The table of runs: which columns there are, and what stands in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from instruct.comparing.guard import find_changes
from instruct.plotting.results import MEASURES
from instruct.statistics import ALPHA, Paired, holm, paired_test
from instruct.viewing.runs import Run

RESAMPLES, SEED = 10_000, 123
MOST_FLIPS = 5_000_000  # signs drawn for one comparison, so that fifty of them with 10,000 records take seconds
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
    columns.append(Column(key="when", label="committed", number=False, shown=False))
    differences = {judge: compare_all(runs, runs[against], judge) for judge in ranked}
    rows = []
    for place, run in enumerate(runs):
        cells = {f"diff:{judge}": differences[judge][place] for judge in ranked}
        for judge in ranked:
            cells |= _score_cells(run, judge)
        rows.append(Row(run=run, note=_origin(run, names), cells=cells | _other_cells(run, runs[against], settings)))
    return columns, rows


def compare_all(runs: Sequence[Run], against: Run, judge: str) -> list[Cell]:
    """Each run's difference from one of them; the p-values are corrected for their number (Holm, 1979)."""
    found = [(None, ["(this run)"]) if run is against else compare_runs(run, against, judge) for run in runs]
    compared = [place for place, (paired, _) in enumerate(found) if paired]
    corrected = holm([paired.p_value for paired, _ in found if paired])
    cells = [
        Cell(text="".join(why[:1]), small="; ".join(why[1:]), value=0.0 if run is against else None)
        for run, (_, why) in zip(runs, found, strict=True)
    ]
    for place, p_value in zip(compared, corrected, strict=True):
        paired = found[place][0]
        assert paired
        one = paired.difference
        cells[place] = _difference_cell(one.mean, one.low, one.high, p_value, verdict=True)
    return cells


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


def compare_runs(one: Run, other: Run, judge: str) -> tuple[Paired | None, Sequence[str]]:
    """The tuned answers of `one` against those of `other`, record by record; or None and the reasons why not."""
    if not all(judge in run.evaluate.get("judges", {}) for run in (one, other)):
        return None, ["not judged"]
    if changes := find_changes(other, one, [judge]):
        return None, ["not comparable", *changes]
    mine, its = one.scores.get(judge, {}), other.scores.get(judge, {})
    groups = {record["id"]: record["group"] or record["id"] for record in one.records}
    pairs = [
        (before, after, groups.get(id_, id_))
        for (system, id_), after in mine.items()
        if system == "tuned" and after is not None and (before := its.get((system, id_))) is not None
    ]
    if not pairs:
        return None, ["no scores of single records"]
    theirs, ours, together = zip(*pairs, strict=True)
    resamples = max(1000, min(RESAMPLES, MOST_FLIPS // len(pairs)))
    return paired_test(theirs, ours, resamples=resamples, seed=SEED, groups=together), []


def _other_cells(run: Run, against: Run, settings: Sequence[str]) -> dict[str, Cell]:
    """Losses, measures of likeness, settings and the date."""
    cells = {
        "val_loss": _number(run.train.get("best_val_loss"), "{:.3f}"),
        "train_loss": _number(run.train.get("last_train_loss"), "{:.3f}"),
        "steps": _number(run.train.get("steps"), "{:.0f}"),
        "when": Cell(text=run.revision.when[:16].replace("T", " "), value=run.revision.when or None),
    }
    measured = run.evaluate.get("reference", {}).get("tuned", {})
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
    tuned, difference = found["tuned"], found["difference"]
    cells = {f"unscored:{judge}": _number(tuned["unscored"], "{:.0f}")}
    if tuned["scored"]:
        interval = f"{tuned['low']:.1f} to {tuned['high']:.1f}" if "low" in tuned else ""
        cells[f"score:{judge}"] = Cell(text=f"{tuned['mean']:.1f}", small=interval, value=tuned["mean"])
    if difference["count"]:
        numbers = (difference[key] for key in ("mean", "low", "high", "p_value"))
        cells[f"gain:{judge}"] = _difference_cell(*numbers, verdict=False)
    return cells


def _difference_cell(mean: float, low: float, high: float, p_value: float, *, verdict: bool) -> Cell:
    said, tone = "not\u00a0distinguishable", ""
    if p_value <= ALPHA:
        said, tone = ("better", "good") if mean > 0 else ("worse", "bad")
    interval = f"{low:+.1f} to {high:+.1f}"
    if not verdict:
        return Cell(text=f"{mean:+.1f}", small=interval, value=mean, tone=tone)
    return Cell(text=f"{mean:+.1f} {said}", small=f"{interval}, p\u00a0=\u00a0{p_value:.2g}", value=mean, tone=tone)


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
