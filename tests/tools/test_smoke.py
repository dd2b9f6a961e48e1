import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct.core.errors import InstructError
from instruct.tools.smoke import make_small, overlay, run_smoke

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
    make_small(root, folder)
    assert data.read_bytes() == before
    made = YAML(typ="safe").load((folder / "params.yaml").read_text())["split"]["data"]
    assert json.loads((folder / made).read_text()) == ROWS[:40]
    assert (folder / made).resolve().is_relative_to(folder.resolve())
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "copies", data.name}


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
