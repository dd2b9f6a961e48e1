"""Look at the results of runs and compare them."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct.core.errors import InstructError, ParamsError

if TYPE_CHECKING:
    from instruct.results.runs import Run

SCORE_HELP = (
    "the score that decides, chosen in advance (default: accuracy, else similarity); further ones are exploratory"
)
SCORES_HELP = "a score to use; repeat for several (default: all)"
BASELINE_HELP = "compare A with this baseline of its own runs, such as base-chat, or with their best one: best"
MOST_SPREAD = 100  # scores are from 0 to 100, so their differences spread no more
FAIL_HELP = "worse | not-better (recipes: two seeds a side) | worse-by POINTS: exit with status 3 if true, for CI"


def view(
    revisions: Annotated[list[str] | None, typer.Argument(help="more branches, tags or commits to show")] = None,
    against: Annotated[str | None, typer.Option(help="the run to compare all others with")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path("build/view/index.html"),
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="open it in the browser")] = True,
) -> None:
    """Write and open an offline page of all experiments. It has a sortable table, curves and searchable answers."""
    from instruct.tools.results import finished_table
    from instruct.viewing.open import open_page
    from instruct.viewing.page import write_view

    require_runs([*(revisions or []), *([against] if against else [])])
    runs = write_view(Path.cwd(), output, revisions or [], against, finished_table(Path.cwd()))
    print(f"{output}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    if open_it and not open_page(output):
        print("no display found; open the file in a browser")


def compare(
    a: Annotated[str, typer.Argument(help="a revision, DVC experiment, `workspace` or export; several seeds as x,y,z")],
    b: Annotated[
        str, typer.Argument(help="the run to compare with A; your working tree if left out", show_default=False)
    ] = "",
    baseline: Annotated[str, typer.Option(help=BASELINE_HELP)] = "",
    out: Annotated[Path, typer.Option(help="the folder for report.md and report.html")] = Path("report"),
    score: Annotated[list[str] | None, typer.Option(help=SCORE_HELP)] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="report incomparable runs too, marked as such")] = False,
    fail_if: Annotated[str, typer.Option(help=FAIL_HELP)] = "",
) -> None:
    """Test whether B differs from A and write the report. Two seeds or more a side show which recipe is better."""
    from instruct.comparing.compare import baseline_of
    from instruct.comparing.compare import compare as run_compare
    from instruct.comparing.gate import gate_fails, parse_gate
    from instruct.comparing.recorded import read_recorded
    from instruct.comparing.report import summary_lines, write_refusal, write_report

    if baseline and b:
        raise ParamsError(f"--baseline compares the runs {a} with their own baseline; leave out {b}")
    a, b = (baseline, a) if baseline else (a, b or "workspace")
    try:
        gate = parse_gate(fail_if)
        runs = read_runs(b)
        against = [baseline_of(runs, baseline, *(score or ())[:1])] if baseline else read_runs(a)
        comparison = run_compare(against, runs, chosen=score or (), anyway=anyway)
        paths = write_report(comparison, out, Path.cwd())
    except InstructError as refusal:
        # Otherwise an old report could be mistaken for the new one; an error of removal must not hide the refusal.
        try:
            write_refusal(a, b, str(refusal), out)
        except InstructError as unwritten:
            raise InstructError("\n".join(dict.fromkeys([str(refusal), str(unwritten)]))) from None
        raise
    print("\n".join(summary_lines(comparison, read_recorded(Path.cwd()))))
    print("report: " + " ".join(str(path) for path in paths))
    if gate and gate_fails(gate, comparison):
        raise typer.Exit(3)


def variance(
    runs: Annotated[list[str], typer.Argument(help="runs that differ in train.seed, or in a judge's seed")],
    score: Annotated[list[str] | None, typer.Option(help=SCORES_HELP)] = None,
    record: Annotated[bool, typer.Option("--record", help="write metrics/seeds.json, for `instruct compare`")] = False,
) -> None:
    """Split each score's variance by record, seed, judge and rest."""
    from instruct.comparing.recorded import record_seeds
    from instruct.comparing.seeds import scores_in_common, variance_lines

    found = read_runs(",".join(runs))
    print("\n".join(variance_lines(found, score or ())))
    if record:
        print(f"recorded in {record_seeds(found, score or scores_in_common(found), Path.cwd())}")


def power(
    runs: Annotated[list[str] | None, typer.Argument(help="two runs, or several seeds of one recipe")] = None,
    score: Annotated[str, typer.Option(help="the score to plan for")] = "",
    sd: Annotated[float, typer.Option(help="without runs: standard deviation of the difference per record")] = 0.0,
    seed_sd: Annotated[
        float, typer.Option(help="without runs: standard deviation of a run's mean between seeds")
    ] = 0.0,
) -> None:
    """Print how many test records and seeds a difference needs."""
    from instruct.comparing.power import Spread, power_lines

    if runs and (sd or seed_sd):
        raise ParamsError("--sd and --seed-sd plan without runs; leave them out, or the runs")
    if not runs and score:
        raise ParamsError("--score chooses among the scores of runs; give two runs or several seeds, or leave it out")
    if not runs and not (0 < sd <= MOST_SPREAD and 0 <= seed_sd <= MOST_SPREAD):
        raise ParamsError(
            f"give two runs or several seeds, or --sd above 0 (and --seed-sd), both at most {MOST_SPREAD}; "
            "the book's judge has an --sd of about 35"
        )
    found = read_runs(",".join(runs)) if runs else []
    print("\n".join(power_lines(found, score, Spread(item=sd, seed=seed_sd or None))))


def read_runs(names: str) -> list["Run"]:
    """Read the runs of a list with commas: revisions, experiments, `workspace` or checked exports."""
    from instruct.exporting.whole import PROOF
    from instruct.results.runs import read_run

    if not names.strip(","):
        raise ParamsError("give a revision, a DVC experiment or `workspace`")

    def read_one(name: str) -> "Run":
        place = Path(name)
        if place.name == PROOF or (place / PROOF).is_file():
            from instruct.exporting.proof import proof_run

            return proof_run(place)
        try:
            return read_run(name, Path.cwd())
        except ParamsError as error:
            is_folder = f"; the folder {name} has no {PROOF}, so it is not an export" if place.is_dir() else ""
            raise ParamsError(f"{error}{is_folder}{nearest_run(name)}") from None

    return [read_one(name) for name in names.split(",") if name]


def require_runs(names: Sequence[str]) -> None:
    """Raise ParamsError for a name that no revision or experiment has, with the nearest one that exists."""
    from instruct.results.revisions import WORKSPACE, find_commit

    for name in names:
        try:
            if name != WORKSPACE:
                find_commit(name, Path.cwd())
        except ParamsError as error:
            raise ParamsError(f"{error}{nearest_run(name)}") from None


def nearest_run(name: str) -> str:
    """`; did you mean x?` for the branch, tag or experiment whose name is nearest, or nothing."""
    from instruct.core.git import ask_git, list_experiments

    here = Path.cwd()
    known = (ask_git(here, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags") or "").split()
    names = ["workspace", *known, *(one.name for one in list_experiments(here))]
    nearest = [one for one in get_close_matches(name, names, n=1) if one != name]
    return f"; did you mean {nearest[0]}?" if nearest else ""
