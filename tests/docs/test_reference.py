"""docs/reference: its generated pages are current, and its pages written by hand name what is there."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from instruct.core.parsing import read_yaml

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_reference", REFERENCE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "commands.md"])
def test_the_committed_pages_are_what_make_reference_writes(generate, name):
    assert (REFERENCE / name).read_text(encoding="utf-8") == generate.pages(ROOT)[name]


def leaves(values, path=()):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield ".".join((*path, name)), value


def test_every_setting_of_params_yaml_has_a_row_with_its_value(generate):
    page = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (\S.*?) \| ", page, re.MULTILINE))
    known = dict(leaves(read_yaml(ROOT / "params.yaml")))
    assert set(rows) >= set(known)
    scalars = {name: value for name, value in known.items() if isinstance(value, int | str) and value != ""}
    assert {name: rows[name].lower() for name in scalars} == {n: f"`{v}`".lower() for n, v in scalars.items()}


def test_every_command_has_a_section_and_every_option_a_row(generate):
    from typer.testing import CliRunner

    from instruct.cli import app

    page = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    for name in re.findall(r"^## instruct (.+)$", page, re.MULTILINE):
        printed = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
        section = page.split(f"\n## instruct {name}\n")[1].split("\n## ")[0]
        for option in set(re.findall(r"^\s+(--[\w-]+)", printed, re.MULTILINE)) - {"--help"}:
            assert f"`{option}`" in section, (name, option)
    listed = re.findall(r"^  ([a-z][a-z-]*) ", CliRunner().invoke(app, ["--help"]).output, re.MULTILINE)
    assert set(listed) <= {name.split()[0] for name in re.findall(r"^## instruct (.+)$", page, re.MULTILINE)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a:   # whole\n  b: 1  # one\n        # and more\n  c: 2\n", {"a": "whole", "a.b": "one and more", "a.c": ""}),
        ("a:\n  b:\n    c: 1  # x\nd: '#no'\n# between\n", {"a": "", "a.b": "", "a.b.c": "x", "d": ""}),
    ],
)
def test_comments_belong_to_the_setting_on_their_line_and_go_on_below_it(generate, text, found):
    assert {name: comment for name, comment in generate.comments_of(text) if name} == found


# files.md


def section_of(name):
    """The text below the heading that names a file."""
    page = (REFERENCE / "files.md").read_text(encoding="utf-8")
    found = re.search(rf"^### .*`{re.escape(name)}`.*\n((?:(?!^##).*\n)*)", page, re.MULTILINE)
    assert found, name
    return found[1]


def test_every_output_of_a_stage_is_in_the_page_of_files():
    page = (REFERENCE / "files.md").read_text(encoding="utf-8")
    stages = {name: stage.get("do", stage) for name, stage in STAGES.items()}
    for stage in stages.values():
        for out in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            name = out if isinstance(out, str) else next(iter(out))
            if "${" not in name and not name.startswith("metrics/curves/"):
                folders = [f"{folder}/" for folder in Path(name).parents]
                assert any(f"`{one}`" in page for one in (name, f"{name}/", *folders)), name


@pytest.mark.parametrize("name", ["augment", "data", "evaluate", "split", "train"])
def test_every_key_of_a_metrics_file_is_explained(name):
    keys = json.loads((ROOT / f"metrics/{name}.json").read_text(encoding="utf-8"))
    keys |= (keys.get("details") or [{}])[0]  # what DVC's tables leave out
    text = section_of(f"metrics/{name}.json")
    assert [key for key in keys if not re.search(rf"`(?:details\[0\])?\.?{key}[`.]", text)] == []


@pytest.mark.parametrize("name", ["metrics/scores.csv", "metrics/curves/train.csv", "metrics/curves/val.csv"])
def test_every_column_of_a_table_is_explained(name):
    """Columns of one system are written with its name as NAME."""
    header = (ROOT / name).read_text(encoding="utf-8").splitlines()[0].split(",")
    text = section_of(name)
    systems = r"_(?:base-few-shot|base-chat|base|echo|nearest|sft)(?=_|$)"
    generic = {re.sub(systems, "_NAME", column) for column in header}
    assert [column for column in sorted(generic) if f"`{column}`" not in text] == []
