import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from small_pipeline import edit_params, git

from instruct.core.errors import DataError, InstructError
from instruct.splitting.near_duplicates import find_duplicates
from instruct.tools.smoke import copy_tree, made_up_records, make_small, overlay, pairs_of, run_smoke

ROOT = Path(__file__).parents[2]
ROWS = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(60)]


@pytest.mark.parametrize("where", ["data/set.json", "../outside.json", "absolute"])
def test_users_data_is_read_wherever_it_lies_and_never_written(tmp_path, where):
    root, folder = tmp_path / "root", tmp_path / "copies" / "smoke"
    for place in (root / "data", folder / "data"):
        place.mkdir(parents=True)
    data = tmp_path / "far.json" if where == "absolute" else root / where
    data.write_text(json.dumps(ROWS))
    before = data.read_bytes()
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["split"]["data"] = str(data) if where == "absolute" else where
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)
    shutil.copy(root / "params.yaml", folder)
    (folder / "data/checks.json").write_text("{}")
    make_small(root, folder)
    assert data.read_bytes() == before
    made = YAML(typ="safe").load((folder / "params.yaml").read_text())["split"]["data"]
    assert json.loads((folder / made).read_text()) == ROWS[:40]
    assert (folder / made).resolve().is_relative_to(folder.resolve())
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "copies", data.name}


@pytest.fixture
def small(tmp_path, hermetic):
    """Copies a repository that has settings and the named files, but no data, and makes the copy small."""
    root, folder = tmp_path / "root", tmp_path / "copy"
    for name in (".dvc", "data"):
        (root / name).mkdir(parents=True)
    (root / ".dvc/config").touch()
    git(root, "init", "--quiet")

    def make(files, **settings):
        for name, content in files.items():
            (root / name).write_text(content)
        edit_params(ROOT / "params.yaml", root / "params.yaml", {"split.data": "data/mine.json", **settings})
        git(root, "add", "--all")
        copy_tree(root, folder)
        make_small(root, folder)
        params = YAML(typ="safe").load((folder / "params.yaml").read_text())
        named = {**params["split"], "pairs": params["pairs"]["file"]}
        return {key: json.loads((folder / named[key]).read_text()) for key in ("data", "checks", "pairs")}

    return make


NOTE = "outs:\n- path: {}\n  md5: 0123\n"
KEPT = {f"data/{name}.json.dvc": NOTE.format(f"{name}.json") for name in ("mine", "checks")}
PREFER = {"split.checks": "data/checks.json", "pairs.file": "data/mine.jsonl", "prefer.methods": ["dpo"]}


def test_clone_that_lacks_what_dvc_keeps_can_be_smoked(small, capsys):
    found = small(KEPT, **PREFER)
    records = made_up_records()
    assert found == {"data": records, "checks": {}, "pairs": pairs_of(records)}
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("data/mine.json: ") and second.startswith("data/checks.json: ")


def test_made_up_records_are_no_near_duplicates():
    texts = [record["instruction"] for record in made_up_records()]
    assert len(texts) == 40 and not len(find_duplicates(texts, 50.0, "exact").links)


def test_files_that_git_ignores_come_along(small, capsys):
    checks = {"a": {"type": "number", "value": 1}}
    ignored = {".gitignore": "/data/*.json", "data/mine.json": json.dumps(ROWS), "data/checks.json": json.dumps(checks)}
    found = small({**KEPT, **ignored}, **PREFER)
    assert found == {"data": ROWS[:40], "checks": checks, "pairs": pairs_of(ROWS[:40])}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("missing", ["data/mine.json", "data/checks.json"])
def test_missing_file_that_dvc_does_not_keep_is_refused(small, missing):
    with pytest.raises(DataError, match=f"{missing}: "):
        small({name: content for name, content in KEPT.items() if name != f"{missing}.dvc"}, **PREFER)


def test_smoke_settings_change_only_what_params_has_and_keep_the_rest():
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    changes = YAML(typ="safe").load((ROOT / "src/instruct/tools/smoke.yaml").read_text(encoding="utf-8"))
    small = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    overlay(small, changes)
    for section, settings in values.items():
        assert list(small[section]) == list(settings)
        for key, value in settings.items():
            assert small[section][key] == changes.get(section, {}).get(key, value)
    assert set(changes) <= set(values)


def test_overlay_goes_into_nested_settings():
    values = {"a": {"b": 1, "c": {"d": 2, "e": 3}}, "f": 4}
    overlay(values, {"a": {"c": {"e": 5}}, "f": 6})
    assert values == {"a": {"b": 1, "c": {"d": 2, "e": 5}}, "f": 6}


def test_a_place_that_is_no_new_folder_is_refused_before_anything_is_copied(tmp_path):
    (tmp_path / "mine").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (("mine", "is a file"), ("loop", "is a link to no folder")):
        with pytest.raises(InstructError, match=f"{name}: {reason}; give a new folder$"):
            run_smoke(ROOT, tmp_path / name)
