"""What a stage takes for the run that it may go on with: never the answers of another device or precision."""

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from instruct.core.records import Example, write_records

ROOT = Path(__file__).parents[1]
STAGES = {
    "generate": ["test.json", "checkpoint", "responses.json"],
    "baseline": ["train.json", "test.json", "baselines"],
    "pairs": [".", "checkpoint", "pairs", "metrics.json"],
}


class Taken(Exception):
    """Ends a stage where it takes its fingerprint."""


@pytest.mark.parametrize("name", STAGES)
def test_an_automatic_device_is_part_of_a_run_as_what_was_chosen(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "models", "models", ignore=shutil.ignore_patterns("sft", "resume", "dpo"))
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["runtime"] |= {"device": "auto", "precision": "auto", "num_threads": torch.get_num_threads()}
    params["pairs"]["source"] = "on-policy"
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    for part in ("train", "test"):
        write_records(tmp_path / f"{part}.json", [Example(id="a", instruction="Say a.", input="", output="a")])
    main = runpy.run_path(str(ROOT / f"src/{name}.py"), run_name="stage")["main"]
    runs = []

    def take(settings, files):
        runs.append(str(settings["runtime"]))
        raise Taken

    doubles = {
        "take_fingerprint": take, "load_trained": lambda *given: (None, None), "make_ready": lambda *given: None,
        "with_end_of": lambda *given: None,
    }  # fmt: skip
    for double, value in doubles.items():
        if double in main.__globals__:
            monkeypatch.setitem(main.__globals__, double, value)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(Taken):
            main(*map(Path, STAGES[name]))
    assert runs[0] != runs[1]
