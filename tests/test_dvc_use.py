"""What a stage really uses when it runs, settings and files alike, is what dvc.yaml declares, no less and no more."""

import ast
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML
from small_pipeline import run

from instruct.tools.recipes import as_overlay
from instruct.tools.smoke import overlay

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SPY = ROOT / "tests" / "spy.py"
# Settings that matter only beside others: each stage also runs with these.
VARIANTS = {
    "split": [
        {"split.data": "data/bad.json", "split.invalid": "drop"},
        {"split.data": "data/chat.json", "split.columns.turns": "first"},
    ],
    "augment": [{"augment.methods": ["rules"]}],
    "train": [{"train.lora.r": 2}],
    "generate": [
        {
            "generate.temperature": 0.7,
            "generate.top_k": 5,
            "generate.top_p": 0.9,
            "generate.max_new_tokens": 2,
            "generate.over_long": "truncate",
        }
    ],
}
# A fraction is checked against the other two, and val takes what they leave.
CHECKED_ONLY = {"split.val"}
# Stages that import torch take seconds each.
BY_SPEED = [
    pytest.param(stage, marks=pytest.mark.slow) if "src/instruct/runtime.py" in STAGES[stage]["deps"] else stage
    for stage in STAGES
]
# Settings of language models behind servers, which no run here has, and of what is done at a gate that good data
# passes: that the code asks for them is read from the code.
ELSEWHERE = (
    "quality.gates.",
    "servers.",
    *(f"augment.{name}" for name in ("magpie.", "max_failed", "max_tokens", "server")),
    *(f"evaluate.{name}" for name in ("allow_unfit", "controls", "repeats", "rubric", "scoring", "temperature")),
)
# Not DVC's: the state to resume from, which a stage leaves only where it was interrupted.
STATE = "models/resume"
SPEED = "models/speed.json"  # for people: times differ from run to run, so nothing tracks them
GATE = "data/quality.txt"  # train only waits for it


@pytest.fixture(scope="module")
def lock(finished):
    return YAML(typ="safe").load(finished / "dvc.lock")["stages"]


@pytest.fixture(scope="module")
def spied(finished, lock, tmp_path_factory):
    """What each stage uses: once with the settings of the smoke run, and once with each variant."""
    seen = {}

    def spy(stage):
        if stage not in seen:
            seen[stage] = [look(stage, changes) for changes in [{}, *VARIANTS.get(stage, [])]]
        return seen[stage]

    def look(stage, changes):
        folder = tmp_path_factory.mktemp(stage) / "project"
        shutil.copytree(finished, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "cache", "__pycache__"))
        params = YAML(typ="safe").load(folder / "params.yaml")
        overlay(params, as_overlay(changes))
        with (folder / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(params, file)
        records = json.loads((folder / "data/smoke.json").read_text(encoding="utf-8"))
        (folder / "data/bad.json").write_text(json.dumps([*records, {"instruction": ""}]), encoding="utf-8")
        chats = [{"messages": chat_of(record)} for record in records]
        (folder / "data/chat.json").write_text(json.dumps(chats), encoding="utf-8")
        if changes.get("generate.over_long"):
            test = json.loads((folder / "data/split/test.json").read_text(encoding="utf-8"))
            test[0]["instruction"] = "word " * 600
            (folder / "data/split/test.json").unlink()
            (folder / "data/split/test.json").write_text(json.dumps(test), encoding="utf-8")
        command = lock[stage]["cmd"].replace("data/smoke.json", params["split"]["data"])
        program, *arguments = shlex.split(command)
        assert program == "python"
        done = run(sys.executable, str(SPY), "../used.json", *arguments, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((folder.parent / "used.json").read_text())

    return spy


def chat_of(record):
    said = ["Answer shortly.", record["instruction"], record["output"], "And then?", "That is all."]
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": role, "content": content} for role, content in zip(roles, said, strict=True)]


def below(name, folders):
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def above(name, files):
    return any(file.startswith(f"{name}/") for file in files)


def source_of(name):
    """The module that a file of bytecode belongs to."""
    return re.sub(r"__pycache__/(\w+)\.cpython-\d+\.pyc$", r"\1.py", name)


def lasting(names):
    """Without what is being written under another name, to be renamed when it is whole."""
    return {name for name in names if not any(part.startswith(".") for part in name.split("/"))}


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def used_settings(stage, lock, spied):
    """The settings that a stage, or another one with the same script, asks for."""
    alike = [name for name in STAGES if script_of(name, lock) == script_of(stage, lock)]
    used = {name for one in alike for look in spied(one) for name in look["settings"]}
    mappings = tuple(name.removesuffix("*") for name in used if name.endswith(".*"))
    declared = declared_settings(stage, lock)
    return {name for name in used if not name.endswith(".*")} | {
        n for n in declared if mappings and n.startswith(mappings)
    }


def paths_of(settings):
    return {name.replace(".", "/") for name in settings}


def declared_settings(stage, lock):
    return set(leaves(lock[stage]["params"]["params.yaml"]))


def script_of(stage, lock):
    return lock[stage]["cmd"].split()[1]


def asked_for_by(stage):
    """The names of attributes and keys that the code of a stage reads, apart from the checks of settings themselves."""
    names = set()
    for dep in STAGES[stage]["deps"]:
        for path in (ROOT / dep).rglob("*.py") if (ROOT / dep).is_dir() else [ROOT / dep]:
            if path.suffix == ".py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                checks = [node for node in ast.walk(tree) if getattr(node, "name", "") == "__post_init__"]
                left_out = {id(node) for check in checks for node in ast.walk(check)}
                names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in left_out}
                keys = [n.slice for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
                names |= {key.value for key in keys if isinstance(key, ast.Constant)}
    return names


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_setting_that_a_stage_reads_is_declared(stage, spied, lock):
    used = used_settings(stage, lock, spied)
    declared = declared_settings(stage, lock)
    assert {name for name in used - declared if not above(name.replace(".", "/"), paths_of(declared))} == set()
    assert used


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_setting_that_is_declared_is_read(stage, spied, lock):
    used = used_settings(stage, lock, spied)
    on_the_command_line = set(re.findall(r"\$\{([\w.]+)\}", STAGES[stage]["cmd"]))
    idle = declared_settings(stage, lock) - used - on_the_command_line - CHECKED_ONLY
    unproven = {name for name in idle if not name.startswith(ELSEWHERE)}
    assert unproven == set()
    assert {name for name in idle if name.rsplit(".", 1)[1] not in asked_for_by(stage)} == set()


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_file_that_a_stage_reads_is_declared(stage, spied, lock):
    deps = [entry["path"] for entry in lock[stage]["deps"]]
    outs = [entry["path"] for entry in lock[stage]["outs"]]
    for look, changes in zip(spied(stage), [{}, *VARIANTS.get(stage, [])], strict=True):
        known = [*deps, *outs, *lock[stage]["params"], STATE, changes.get("split.data", "params.yaml")]
        read = {source_of(name) for name in lasting(look["read"])}
        written = set(look["written"])
        assert {name for name in read - written if not below(name, known) and not above(name, known)} == set()
        assert below("src", [name.split("/")[0] for name in read])


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_dep_that_is_data_is_read(stage, spied, lock):
    read = {name for look in spied(stage) for name in look["read"]}
    data = [entry["path"] for entry in lock[stage]["deps"] if not entry["path"].startswith("src/")]
    assert [dep for dep in data if dep not in read and not above(dep, read) and (stage, dep) != ("train", GATE)] == []


@pytest.mark.parametrize("stage", BY_SPEED)
def test_a_stage_writes_its_outs_and_nothing_else(stage, spied, lock):
    outs = [entry["path"] for entry in lock[stage]["outs"]]
    for look in spied(stage):
        written = lasting(look["written"])
        assert {name for name in written if not below(name, [*outs, STATE, SPEED])} == set()
        assert [out for out in outs if out not in written and not above(out, look["written"])] == []


def ran(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"Running stage '(\w+)'", done.stdout)


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("src/instruct/plotting/figures.py", ["plot"]),
        ("src/instruct/tools/smoke.py", []),
        pytest.param("src/instruct/evaluation/score.py", ["evaluate"], marks=pytest.mark.slow),
        pytest.param("src/instruct/generation/sampling.py", ["baseline", "generate"], marks=pytest.mark.slow),
        pytest.param("src/instruct/training/loss.py", ["train"], marks=pytest.mark.slow),
    ],
)
def test_a_remark_in_a_module_runs_the_stages_that_use_it_and_no_other(workplace, module, stages):
    with (workplace / module).open("a", encoding="utf-8") as file:
        file.write("# a remark\n")
    # What these stages make is the same as before, so nothing after them runs.
    assert ran(run("dvc", "repro", cwd=workplace)) == stages
    assert ran(run("dvc", "repro", cwd=workplace)) == []
