"""The table of runs: which columns there are, and what is in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from instruct.comparing.scores import ScoreChange
from instruct.comparing.tables import TONES
from instruct.core.parsing import is_number
from instruct.results.runs import Run
from instruct.results.schema import ACCURACY, CORPUS_MEASURES, MEASURES, REFERENCE, SIMILARITY
from instruct.results.scores import ScoreResults
from instruct.viewing.collect import Entry, finite
from instruct.viewing.differences import compare_with

SHOWN_SETTINGS = 3  # columns of settings that are shown at first; all others can be switched on
MEANS = MEASURES | CORPUS_MEASURES
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


TRAINING = (
    Column(key="val_loss", label="best val loss", best="ascending", title="nats per supervised token"),
    Column(key="train_loss", label="last train loss", shown=False, best="ascending"),
    Column(key="steps", label="steps", shown=False),
)


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

    run: Entry
    note: str
    cells: dict[str, Cell] = field(default_factory=dict)


def build_table(entries: Sequence[Entry], names: Mapping[str, str], against: int) -> tuple[list[Column], list[Row]]:
    """Columns and rows for all runs; `against` is the place of the run that the others are compared with."""
    runs = [one.run for one in entries if one.run]
    params = [one.params for one in entries]
    settings = varying_settings(params)
    scores = rank_scores(runs)
    columns = [*score_columns(scores, entries[against].name), *TRAINING, *measure_columns(scores)]
    columns += [
        Column(key=f"set:{name}", label=name, number=_all_numbers(params, name), shown=place < SHOWN_SETTINGS)
        for place, name in enumerate(settings)
    ]
    columns.append(Column(key="when", label="committed (UTC)", number=False, shown=False))
    differences = {name: difference_cells(entries, entries[against], name) for name in scores}
    rows = []
    for place, entry in enumerate(entries):
        cells = {f"diff:{name}": differences[name][place] for name in scores}
        cells["when"] = Cell(text=entry.revision.when[:16].replace("T", " "), value=entry.revision.when or None)
        cells |= {f"set:{key}": _setting(params[place], params[against], key) for key in settings}
        if entry.run:
            cells |= _run_cells(entry.run, scores)
        rows.append(Row(run=entry, note=_origin(entry, names), cells=cells))
    return columns, rows


def rank_scores(runs: Sequence[Run]) -> list[str]:
    """Right answers if all runs have them, then the judges: first those whose scores come first in some run."""
    right = (
        [ACCURACY] if runs and all(any(one.name == ACCURACY for one in run.results.measured) for run in runs) else []
    )
    first = {run.results.main_judge.name for run in runs}
    judges = {judge.name for run in runs for judge in run.results.judges}
    return [*right, *sorted(judges, key=lambda name: (name not in first, name))]


def difference_cells(entries: Sequence[Entry], against: Entry, score: str) -> list[Cell]:
    """Each run's difference from one of them in a score, or the reasons why there is none."""
    found: dict[int, ScoreChange | tuple[str, ...]] = {}  # by identity: experiments of several commits share a name
    if against.run:
        others = [one for one in entries if one.run and one is not against]
        changes = compare_with(against.run, [one.run for one in others if one.run], score)
        found = dict(zip(map(id, others), changes, strict=True))
    cells = []
    for one in entries:
        change = found.get(id(one), (f"{against.name if one.run else one.name} is damaged",))
        if one is against:
            cells.append(Cell(text="(this run)", value=0.0))
        elif isinstance(change, ScoreChange):
            cells.append(_change_cell(change))
        else:
            cells.append(Cell(text="not comparable", small="; ".join(change)))
    return cells


def varying_settings(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that are not the same in all runs that have any, those that differ most often first."""
    known = [one for one in params if one]
    keys = dict.fromkeys(key for one in known for key in one)
    variety = {key: {repr(one.get(key)) for one in known} for key in keys}
    usual = known[0] if known else {}
    changed = {key: sum(one.get(key) != usual.get(key) for one in known) for key in keys if len(variety[key]) > 1}
    return sorted(changed, key=lambda key: -changed[key])


def score_columns(scores: Sequence[str], against: str) -> list[Column]:
    """For each score the primary system's mean, its gain on the best baseline, and the difference from one run."""
    columns = []
    for place, name in enumerate(scores):
        called = {ACCURACY: MEASURES[ACCURACY], REFERENCE: MEASURES[SIMILARITY]}.get(name, name)
        of = f" ({called})" if place else ""
        first = place == 0
        columns += [
            Column(key=f"score:{name}", label=called, shown=place < 2, title=f"mean of the primary system: {called}"),
            Column(
                key=f"gain:{name}",
                label=f"gain on best baseline{of}",
                shown=first,
                title=f"primary system minus the best baseline of its run: {called}",
            ),
            Column(
                key=f"diff:{name}",
                label=f"against {against}{of}",
                shown=first,
                title=f"paired difference from {against}: {called}",
            ),
            Column(key=f"unscored:{name}", label=f"not scored{of}", shown=False, best="ascending"),
        ]
    return columns


def measure_columns(scores: Sequence[str]) -> list[Column]:
    """Means of measures of similarity to the reference answer, but for those that are among the scores."""
    there = {SIMILARITY if name == REFERENCE else name for name in scores}
    rest = {key: label for key, label in MEANS.items() if key not in there}
    return [Column(key=f"measure:{key}", label=label, shown=False) for key, label in rest.items()]


def _run_cells(run: Run, scores: Sequence[str]) -> dict[str, Cell]:
    """Losses, measures of similarity, right answers and every judge's scores."""
    cells = {
        "val_loss": _number(run.train.get("best_val_loss"), "{:.3f}"),
        "train_loss": _number(run.train.get("last_train_loss"), "{:.3f}"),
        "steps": _number(run.train.get("steps"), "{:.0f}"),
    }
    measures = run.results.system(run.results.primary).measures
    cells |= {f"measure:{key}": _number(measures.get(key), "{:.1f}") for key in MEANS}
    for name in scores:
        cells |= _score_cells(run, name)
    return cells


def _origin(entry: Entry, names: Mapping[str, str]) -> str:
    """Where an experiment began."""
    start = entry.revision.baseline
    return f"from {names.get(start, start[:7])}" if start else ""


def _score_cells(run: Run, name: str) -> dict[str, Cell]:
    """The primary system's mean of a score, its gain on the best baseline, and how many answers have no score."""
    scored: Sequence[ScoreResults] = (*run.results.measured, *run.results.judges)
    if not (one := next((one for one in scored if one.name == name), None)):
        return {f"diff:{name}": Cell(text="not scored")}
    scores, gain = one.scores_of(run.results.primary), one.difference_of(run.results.primary)
    cells = {f"unscored:{name}": _number(scores.unscored, "{:.0f}")}
    if scores.mean is not None:
        small = f"{scores.low:.1f} to {scores.high:.1f}"
        cells[f"score:{name}"] = Cell(text=f"{scores.mean:.1f}", small=small, value=scores.mean)
    if gain.mean is not None and gain.p_value is not None:
        small = f"{gain.low:+.1f} to {gain.high:+.1f}, against {gain.against}"
        tone = TONES.get(gain.verdict, "")
        cells[f"gain:{name}"] = Cell(text=f"{gain.mean:+.1f}", small=small, value=gain.mean, tone=tone)
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


def _number(value: Any, form: str) -> Cell:
    number = finite(value) if is_number(value) else None
    return Cell() if number is None else Cell(text=form.format(number), value=number)


def _setting(params: Mapping[str, Any], usual: Mapping[str, Any], key: str) -> Cell:
    if key not in params:
        return Cell()
    value = params[key]
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    shown = finite(value) if is_number(value) else text
    return Cell(text=text, value=shown, tone="changed" if value != usual.get(key) else "")


def _all_numbers(params: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(is_number(one[key]) for one in params if key in one)
