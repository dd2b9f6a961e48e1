"""Writes the page: table, curves and answers of all runs, and the report of the workspace where there is one."""

import base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from instruct.core.errors import DataError, InstructError
from instruct.core.files import read_text
from instruct.report.gather import page_values, read_finished, read_pairs
from instruct.report.report import template_environment, write_rendered
from instruct.report.tables import Table
from instruct.results.revisions import WORKSPACE, find_commit, names_of_commits
from instruct.viewing.blocks import Blocks, run_data, script_json
from instruct.viewing.collect import Entry, collect_runs
from instruct.viewing.differences import comparable_groups
from instruct.viewing.table import build_table

HERE = Path(__file__).parent
SCRIPTS = ("common.js", "table.js", "curves.js", "answers.js")
SECTIONS = ("scores", "training", "preferring", "stop_or_go", "quality", "slices", "judges", "failures")
MOST_ANSWERS = 400_000  # texts of answers inside one page; beyond that a browser takes seconds to open it


def write_view(
    root: Path,
    output: Path,
    asked: Sequence[str] = (),
    against: str | None = None,
    recipes: tuple[Table, Sequence[str]] | None = None,
) -> list[Entry]:
    """Collect all runs, write them to `output`, and return them; `recipes` is a table of experiments with its notes."""
    runs = collect_runs(root, [*asked, *([against] if against else [])])
    if not any(one.run or one.revision.kind != "workspace" for one in runs):
        raise InstructError("there is no finished run to show; `make repro` makes the first one")
    place = find_place(runs, against, root)
    names = names_of_commits(root, [run.revision for run in runs])
    write_rendered(output, render(runs, names, place, workspace_report(root), recipes))
    return runs


def workspace_report(root: Path) -> Markup:
    """The sections of the report on the run in the workspace, or a line that says why there are none."""
    try:
        run = read_finished(root)
        values = page_values(run, read_pairs(run, root), 0)
        environment = template_environment()
        return Markup("\n").join(
            Markup(environment.get_template(f"sections/{name}.html").render(**values)) for name in SECTIONS
        )
    except DataError as error:
        return Markup("<p>The workspace holds no finished run. {}</p>").format(str(error).replace(f"{root}/", ""))


def find_place(runs: Sequence[Entry], against: str | None, root: Path) -> int:
    """Which run the others are compared with: the one named, else the first with scores that is a commit.

    A workspace that is left out, as it equals the branch at hand, is that branch.
    """
    if against == WORKSPACE:
        return 0
    if against:
        commit = find_commit(against, root)
        return next(place for place, run in enumerate(runs) if run.revision.commit == commit)
    judged = [place for place, one in enumerate(runs) if one.run]
    firm = [place for place in judged if runs[place].revision.kind == "revision"]
    return (firm or judged or [0])[0]


def render(
    runs: Sequence[Entry],
    names: dict[str, str],
    against: int,
    report: Markup,
    recipes: tuple[Table, Sequence[str]] | None = None,
) -> str:
    """The whole page as text; its only scripts are ours, by their hash."""
    columns, rows = build_table(runs, names, against)
    blocks, data, room = Blocks(), [], MOST_ANSWERS
    for run, groups in zip(runs, comparable_groups([one.run for one in runs]), strict=True):
        values, size = run_data(run, blocks, room)
        room -= size
        data.append(values | {"groups": groups})
    script = "(() => {\n'use strict'\n" + "\n".join(read_text(HERE / name) for name in SCRIPTS) + "})()\n"
    digest = base64.b64encode(sha256(script.encode("utf-8")).digest()).decode()
    values_of_page: dict[str, Any] = {
        "columns": columns,
        "rows": rows,
        "against": runs[against].name,
        "blocks": blocks.texts,
        "data": script_json({"runs": data, "against": against}),
        "script": Markup(script),
        "script_hash": f"sha256-{digest}",
        "title": "Experiments",
        "report": report,
        "stale": runs[0].run.stale if runs[0].run else (),
        "leak": runs[0].run.leak if runs[0].run else "",
        "recipes": recipes,
        "left_out": sum(values["left_out"] for values in data),
    }
    return template_environment(HERE).get_template("view.html").render(**values_of_page)
