"""What a stage really uses when it runs is what dvc.yaml declares, no less and no more.

Each default stage runs under tests/spy.py, whose docstring says what it cannot see; it also runs from nothing but what
dvc.lock names, and must make the same bytes. The last tests put undeclared uses into the scripts and must find them.

Known and left: with a backbone's name in `servers.llamacpp.gguf`, augment and evaluate read its entry of
models/backbones.yaml, and with a path that file, and DVC knows of neither. Their results tell the sha256.
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path, PurePath
from types import SimpleNamespace

import pytest
import yaml
from evaluation.ollama_server import OllamaServer
from ruamel.yaml import YAML
from small_pipeline import leaves, nested, run

from instruct.core.torch_environment import KERNELS, THREADS
from instruct.tools.smoke import overlay, run_smoke

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SPY = ROOT / "tests" / "spy.py"
ADDRESS = "http://language.models"  # stands for that of the test's own server
SERVERS = {
    "servers.ollama.url": ADDRESS,
    "servers.openai.url": f"{ADDRESS}/v1",
    "servers.llamacpp.gguf": str(ROOT / "pyproject.toml"),  # any file outside the stage's folder
    "servers.calls.backoff": 0.001,
}
ASKING = {"augment.methods": ["magpie", "passive"], "augment.magpie.records": 2, "augment.max_failed": 1.0}
# Settings that matter only beside others: each stage also runs with these.
VARIANTS = {
    "baseline": [{"generate.temperature": 0.7, "generate.top_k": 5, "generate.top_p": 0.9}],
    "split": [
        {"split.data": "data/bad.json", "split.invalid": "drop"},
        {"split.data": "data/chat.json", "split.columns.turns": "first"},
    ],
    "augment": [
        {"augment.methods": ["rules"]},
        *({**SERVERS, **ASKING, "augment.server": name} for name in ("ollama", "openai", "llamacpp")),
    ],
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
    "evaluate": [{**SERVERS, "evaluate.judges": ["ollama", "openai", "llamacpp"], "evaluate.allow_unfit": True}],
}
# A fraction is checked against the other two, and val takes what they leave.
CHECKED_ONLY = {"split.val"}
# Stages that import torch take seconds each.
BY_SPEED = [
    pytest.param(stage, marks=pytest.mark.slow) if "src/instruct/model" in parts["deps"] else stage
    for stage, parts in STAGES.items()
    if "foreach" not in parts
]
OF_PREFERENCE = [f"{stage}@dpo" for stage, parts in STAGES.items() if "foreach" in parts]  # off by default
ON_POLICY = {"pairs.source": "on-policy", "pairs.on_policy.samples": 2}
NO_PAIR = "no pair is left"  # of answers of the small model, hardly any of which ends
# Not DVC's: the state to resume from, which a stage leaves only where it was interrupted.
STATE = "models/resume"
SPEED = ("models/speed.json", "models/speed-dpo.json")  # for people: times differ, so nothing tracks them
GATE = "data/quality.txt"  # train only waits for it
NONE_YET = ("data/preferred", "metrics/preferred")  # hold nothing while preference tuning is off
LOOKED_FOR = {
    "matplotlibrc",  # by Matplotlib, but the figures are drawn without what it says
    *("_classes.py", "_ops.py"),  # by Python, for what torch calls the files of modules that have none
}
# What an interrupted run has left of the answers, which is fingerprinted.
JOURNAL = "data by src/instruct/generation/journal.py"
# What a killed run has left half written, to remove it.
PARTS = {
    f"{folder} by src/instruct/training/resume.py"
    for folder in ("metrics", "metrics/curves", "metrics/preferred", "models")
}
LISTED = {"baseline": {JOURNAL}, "generate": {JOURNAL}, "train": PARTS, "prefer@dpo": PARTS}
LISTED |= {"pairs@dpo": {JOURNAL}, "answer@dpo": {"data/preferred by src/instruct/generation/journal.py"}}
ENVIRONMENT = {
    "DVC_STAGE",  # by DVC: whether the stage must end with it
    *("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # by torchrun: who of several processes this is
    *("INSTRUCT_CACHE", "INSTRUCT_REPLIES"),  # where files are that are checked against their sha256 or key
    "OPENAI_API_KEY",  # servers.openai.key_variable: a secret
    *THREADS,  # these and the next are taken away before torch reads them
    *KERNELS,
}


@pytest.fixture(scope="module")
def lock(finished):
    return lock_of(finished)


def lock_of(folder):
    return YAML(typ="safe").load(folder / "dvc.lock")["stages"]


@pytest.fixture(scope="module")
def tuned(project, tmp_path_factory):
    """A finished small run with preference tuning."""
    return run_smoke(project, tmp_path_factory.mktemp("tuned") / "smoke", prefer=True)


class LanguageModels(OllamaServer):
    """Speaks Ollama's API and, below /v1, OpenAI's; the first question of each kind is refused for the moment."""

    def answer(self, method, path, raw):
        is_first = (method, path) not in {request[:2] for request in self.requests}
        if path == "/v1/chat/completions":
            self.requests.append((method, path, None))
            message = {"role": "assistant", "content": self.content}
            counts = {"usage": {"prompt_tokens": 5}}
            answer = 200, {"choices": [{"message": message, "finish_reason": "stop"}], **counts}
        else:
            answer = super().answer(method, path, raw)
        return (503, {"error": "busy"}) if method == "POST" and is_first else answer


XLLAMACPP = """
from types import SimpleNamespace
class CommonParams(SimpleNamespace):
    def __init__(self):
        super().__init__(model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace())
class Server:
    listening_address = "ADDRESS"
    def __init__(self, params):
        self.params = params
"""


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    """A server's address, and a package in place of xllamacpp that starts no other one."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "xllamacpp-1.0.dist-info").mkdir()
    (packages / "xllamacpp-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: xllamacpp\nVersion: 1.0\n")
    with LanguageModels() as server:
        (packages / "xllamacpp.py").write_text(XLLAMACPP.replace("ADDRESS", server.url))
        yield SimpleNamespace(server=server, packages=packages)


@pytest.fixture(scope="module")
def scratch(finished, tmp_path_factory):
    """Makes copies of the finished run, for a stage to run in."""

    def copy(name, run=finished):
        folder = tmp_path_factory.mktemp(name) / "project"
        shutil.copytree(run, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "cache", "__pycache__"))
        return folder

    return copy


@pytest.fixture(scope="module")
def look(language_models):
    """Runs a stage in a folder under the spy and tells what it used."""

    def spy(stage, folder, changes):
        language_models.server.requests.clear()
        changes = json.loads(json.dumps(changes).replace(ADDRESS, language_models.server.url))
        params = YAML(typ="safe").load(folder / "params.yaml")
        overlay(params, nested(changes))
        with (folder / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(params, file)
        command = lock_of(folder)[stage]["cmd"].replace("data/smoke.json", params["split"]["data"])
        program, *arguments = shlex.split(command)
        assert program == "python"
        environment = {"INSTRUCT_REPLIES": str(folder.parent / "replies.sqlite"), "OPENAI_API_KEY": "a key"}
        if changes.keys() & SERVERS.keys():
            environment["PYTHONPATH"] = str(language_models.packages)
        done = run(sys.executable, str(SPY), "../used.json", *arguments, cwd=folder, **environment)
        assert done.returncode == 0 or NO_PAIR in done.stderr, done.stdout + done.stderr
        return json.loads((folder.parent / "used.json").read_text())

    return spy


@pytest.fixture(scope="module")
def spied(scratch, look):
    """What each stage uses: once with the settings of the smoke run, and once with each variant."""
    seen = {}

    def spy(stage):
        if stage not in seen:
            seen[stage] = [look(stage, prepared(stage, changes), changes) for changes in looks_at(stage)]
        return seen[stage]

    def prepared(stage, changes):
        folder = scratch(stage)
        records = json.loads((folder / "data/smoke.json").read_text(encoding="utf-8"))
        (folder / "data/bad.json").write_text(json.dumps([*records, {"instruction": ""}]), encoding="utf-8")
        chats = [{"messages": chat_of(record)} for record in records]
        (folder / "data/chat.json").write_text(json.dumps(chats), encoding="utf-8")
        if changes.get("generate.over_long"):
            test = json.loads((folder / "data/split/test.json").read_text(encoding="utf-8"))
            test[0]["instruction"] = "word " * 600
            (folder / "data/split/test.json").unlink()
            (folder / "data/split/test.json").write_text(json.dumps(test), encoding="utf-8")
        return folder

    return spy


def looks_at(stage):
    return [{}, *VARIANTS.get(stage, [])]


def chat_of(record):
    said = ["Answer shortly.", record["instruction"], record["output"], "And then?", "That is all."]
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": role, "content": content} for role, content in zip(roles, said, strict=True)]


def below(name, folders):
    return any(name == folder or name.startswith(f"{folder}/") for folder in folders)


def above(start, names):
    return any(name.startswith(start) for name in names)


def paths_in(entries):
    return [entry["path"] for entry in entries]


def source_of(name):
    """The module that a file of bytecode belongs to."""
    return re.sub(r"__pycache__/(\w+)\.cpython-\d+\.pyc$", r"\1.py", name)


def lasting(names):
    """Without what is being written under another name, to be renamed when it is whole."""
    return {name for name in names if not any(part.startswith(".") for part in name.split("/"))}


def used_settings(stage, lock, spied):
    """The settings that a stage, or another one with the same script, asks for."""
    alike = [name for name in STAGES if name in lock and script_of(name, lock) == script_of(stage, lock)]
    return with_mappings({name for one in alike for look in spied(one) for name in look["settings"]}, stage, lock)


def with_mappings(used, stage, lock):
    """With every declared setting of a mapping that is used, since its keys are not watched."""
    mappings = tuple(name.removesuffix("*") for name in used if name.endswith(".*"))
    return {name for name in used if not name.endswith(".*")} | {
        name for name in declared_settings(stage, lock) if mappings and name.startswith(mappings)
    }


def declared_settings(stage, lock):
    """The settings, and the entries of other files of settings as `file:entry`."""
    others = {name: values for name, values in lock[stage]["params"].items() if name != "params.yaml"}
    entries = {f"{name}:{entry}" for name, values in others.items() for entry in values}
    return entries | {name for name, _ in leaves(lock[stage]["params"]["params.yaml"])}


def idle_settings(stage, lock, used):
    on_the_command_line = set(re.findall(r"\$\{([\w.]+)\}", STAGES[stage]["cmd"]))
    declared = {name for name in declared_settings(stage, lock) if ":" not in name}
    return declared - used - on_the_command_line - CHECKED_ONLY


def script_of(stage, lock):
    return lock[stage]["cmd"].split()[1]


def undeclared(stage, lock, look, changes):
    """What a stage used in one run and dvc.yaml does not declare, by kind."""
    outs = paths_in(lock[stage]["outs"])
    known = [*paths_in(lock[stage]["deps"]), *outs, *lock[stage]["params"], STATE]
    known.append(changes.get("split.data", "params.yaml"))
    # Docstrings alone, by a test of dvc.yaml; training hashes them with the code.
    known += [f"{folder}/__init__.py" for dep in known for folder in PurePath(dep).parents]
    written = lasting(look["written"])
    declared = declared_settings(stage, lock)
    used = with_mappings(set(look["settings"]), stage, lock)
    read = {source_of(name) for name in lasting(look["read"])} - written
    asked = lasting(look["asked"]) - LOOKED_FOR
    listed = set(look["listed"]) - LISTED.get(stage, set())
    return {
        # A section is asked for on the way to its settings.
        "settings": {name for name in used - declared if not above(f"{name}.", declared)},
        "read": {name for name in read if not below(name, known)},
        "written": {name for name in written if not below(name, [*outs, STATE, *SPEED])},
        "asked": {name for name in asked if not below(name, known) and not above(f"{name}/", known)},
        "listed": {name for name in listed if not below(name.split(" by ")[0], known)},
        "processes": set(look["processes"]),
        "environment": set(look["environment"]) - ENVIRONMENT,
    }


KINDS = ("settings", "read", "written", "asked", "listed", "processes", "environment")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", BY_SPEED)
def test_whatever_a_stage_uses_is_declared(stage, kind, spied, lock):
    for look, changes in zip(spied(stage), looks_at(stage), strict=True):
        assert undeclared(stage, lock, look, changes)[kind] == set()
        assert look[kind] or kind in ("listed", "processes")


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "changes"), [*((stage, {}) for stage in OF_PREFERENCE), ("pairs@dpo", ON_POLICY)])
def test_whatever_a_stage_of_preference_tuning_uses_is_declared(stage, changes, tuned, scratch, look):
    used = look(stage, scratch(stage.partition("@")[0], tuned), changes)
    found = undeclared(stage, lock_of(tuned), used, changes)
    assert {kind: names for kind, names in found.items() if names} == {}
    assert used["settings"] and used["read"]


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_setting_that_is_declared_is_read(stage, spied, lock):
    assert idle_settings(stage, lock, used_settings(stage, lock, spied)) == set()


@pytest.mark.parametrize("stage", BY_SPEED)
def test_every_dep_that_is_data_is_read(stage, spied, lock):
    read = {name for look in spied(stage) for name in look["read"]}
    data = [dep for dep in paths_in(lock[stage]["deps"]) if not dep.startswith("src/")]
    assert [
        dep
        for dep in data
        if dep not in read and not above(f"{dep}/", read) and (stage, dep) != ("train", GATE) and dep not in NONE_YET
    ] == []


@pytest.mark.parametrize("stage", BY_SPEED)
def test_a_stage_writes_all_its_outs(stage, spied, lock):
    for look in spied(stage):
        written = look["written"]
        outs = paths_in(lock[stage]["outs"])
        assert [out for out in outs if out not in written and not above(f"{out}/", written)] == []


@pytest.mark.parametrize("stage", BY_SPEED)
def test_a_stage_makes_the_same_from_nothing_but_what_the_lock_names(stage, finished, lock, tmp_path):
    bare(tmp_path, finished, lock[stage])
    done = run(*shlex.split(lock[stage]["cmd"]), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for out in paths_in(lock[stage]["outs"]):
        wanted = content_of(finished / out)
        assert wanted and content_of(tmp_path / out) == wanted, out


def bare(folder, finished, entry):
    """A folder that holds a stage's deps, and files of settings with nothing but its own settings in them."""
    for dep in paths_in(entry["deps"]):
        (folder / dep).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (finished / dep).is_dir() else shutil.copy
        copy(finished / dep, folder / dep)
    # Without this docstring the folder is a namespace, and the installed package comes first.
    shutil.copy(finished / "src/instruct/__init__.py", folder / "src/instruct")
    for name, values in entry["params"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            YAML(typ="safe").dump(values, file)


def content_of(path):
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def ran(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"Running stage '(\w+)'", done.stdout)


@pytest.mark.parametrize(
    ("modules", "stages"),
    [
        (["report/charts.py", "tools/smoke.py"], ["plot"]),  # no stage uses the second
        pytest.param(["evaluation/score.py"], ["evaluate"], marks=pytest.mark.slow),
        pytest.param(["generation/sampling.py"], ["baseline", "generate"], marks=pytest.mark.slow),
        pytest.param(["training/loss.py"], ["train"], marks=pytest.mark.slow),
    ],
)
def test_a_remark_in_a_module_runs_the_stages_that_use_it_and_no_other(workplace, modules, stages):
    for module in modules:
        with (workplace / "src/instruct" / module).open("a", encoding="utf-8") as file:
            file.write("# a remark\n")
    # What these stages make is the same as before, so nothing after them runs.
    assert ran(run("dvc", "repro", cwd=workplace)) == stages
    assert ran(run("dvc", "repro", cwd=workplace)) == []


# The checks themselves find what dvc.yaml does not know, though the stage works in spite of it.
BEFORE = {"split": "    rows = Rows(", "plot": "    run = read_finished("}
HIDDEN = {
    ("plot", "settings"): {
        "from instruct.core import params as p; p.read_params()['train']['seed']": "params.yaml",
        "from instruct.core.runtime import RuntimeParams": "",
        "p.load_params('runtime', RuntimeParams).device": "runtime.device",
        "from instruct.backbones.catalog import find_backbone; find_backbone('gpt2-124m').files": (
            "models/backbones.yaml:gpt2-124m"
        ),
    },
    ("split", "settings"): {"import yaml; yaml.safe_load(open('params.yaml'))['train']": "params.yaml"},
    ("split", "asked"): {
        "Path('data/split/../responses.json').exists()": "data/responses.json",
        "import os; os.path.getsize('data/baselines/base.json')": "data/baselines/base.json",
        "os.access('data/judgements.json', os.R_OK)": "data/judgements.json",
        "Path('models/sft/best').is_dir()": "models/sft/best",
        "import contextlib": "",
        "with contextlib.suppress(OSError): open('data/not-there.json')": "data/not-there.json",
    },
    ("split", "listed"): {
        "import os; os.listdir('data/augmented')": "data/augmented by src/split.py",
        "list(Path('models').glob('*'))": "models by src/split.py",
        "os.chdir('metrics'); os.listdir(); os.chdir('..')": "metrics by src/split.py",
    },
    ("split", "read"): {
        "import subprocess; subprocess.run(['cat', 'data/responses.json'], capture_output=True)": (
            "data/responses.json"
        ),
        "from safetensors import safe_open; safe_open('models/sft/best/model.safetensors', framework='np')": (
            "models/sft/best/model.safetensors"
        ),
        "import pyarrow; pyarrow.memory_map('data/judgements.json').read()": "data/judgements.json",
        "import os; os.symlink('../../metrics/train.json', 'data/split/a-link')": "",
        "open('data/split/a-link').read()": "metrics/train.json",
    },
    ("split", "written"): {
        "open('data/more.json', 'w').close()": "data/more.json",
        "import os; os.rename('data/more.json', 'data/still-more.json')": "data/still-more.json",
        "import sqlite3; sqlite3.connect('data/replies.sqlite').close()": "data/replies.sqlite",
        "os.remove('metrics/evaluate.json')": "metrics/evaluate.json",
    },
    ("split", "processes"): {
        "import subprocess; subprocess.run(['true'])": "subprocess.Popen: true",
        "import os; os.system('true')": "os.system: b'true'",
        "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)": "os.posix_spawn: /bin/true",
        "os.fork() or os._exit(0)": "os.fork: ",
    },
    ("split", "environment"): {
        "import os; os.environ.get('A_TITLE')": "A_TITLE",
        "os.getenv('B_TITLE')": "B_TITLE",
        "'C_TITLE' in os.environ": "C_TITLE",
        "os.path.expandvars('$D_TITLE')": "D_TITLE",
        "os.environb.get(b'E_TITLE')": "E_TITLE",
        "list(os.environ)": "*",
    },
}


# Kinds of which one does not show in the other: one run tells of all.
@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("plot", ["settings"]),
        ("split", ["settings", "asked", "processes", "environment"]),
        ("split", ["listed", "written"]),
        ("split", ["read"]),
    ],
    ids=str,
)
def test_an_undeclared_use_is_found(stage, kinds, scratch, look, lock):
    folder = scratch(stage)
    lines = [line for kind in kinds for line in HIDDEN[stage, kind]]
    change(folder / script_of(stage, lock), BEFORE[stage], "".join(f"    {line}\n" for line in lines))
    found = undeclared(stage, lock, look(stage, folder, {}), {})
    assert {kind: found[kind] for kind in kinds} == {kind: set(HIDDEN[stage, kind].values()) - {""} for kind in kinds}


@pytest.mark.parametrize(
    "line",
    [
        "from instruct.core.params import read_params; read_params()['runtime']",
        "from instruct.core.records import read_examples; read_examples(Path('data/augmented/train.json'))",
        "import subprocess; subprocess.run(['cat', 'data/augmented/train.json'], check=True)",
        "from instruct.model import gpt2",
        "params = PlotParams(examples=1 + Path('data/augmented/train.json').exists())",
    ],
)
def test_a_stage_that_needs_more_than_the_lock_names_fails_or_makes_other_bytes(line, finished, lock, tmp_path):
    entry, whole, alone = lock["plot"], tmp_path / "whole", tmp_path / "alone"
    shutil.copytree(finished, whole, symlinks=True, ignore=shutil.ignore_patterns(".git", "cache"))
    bare(alone, finished, entry)
    for folder in (whole, alone):
        change(folder / "src/plot.py", BEFORE["plot"], f"    {line}\n")
    command = shlex.split(entry["cmd"])
    assert run(*command, cwd=whole).returncode == 0
    if run(*command, cwd=alone).returncode == 0:
        page = "metrics/report/index.html"
        assert content_of(alone / page) != content_of(whole / page)


def test_a_setting_that_nothing_reads_is_found(scratch, look, lock):
    folder = scratch("augment")
    change(folder / "src/instruct/servers/settings.py", "    url: str\n", "    name: str = 'mine'\n", after=True)
    entry = YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"]["augment"]
    entry["params"]["params.yaml"]["servers"]["ollama"]["name"] = "mine"
    more = {**lock, "augment": entry}
    changes = {**SERVERS, **ASKING, "augment.server": "ollama", "servers.ollama.name": "mine"}
    used = look("augment", folder, changes)["settings"]
    assert "servers.ollama.model" in used
    idle = idle_settings("augment", more, with_mappings(set(used), "augment", more))
    assert "servers.ollama.name" in idle and "servers.ollama.model" not in idle


def change(file, place, lines, after=False):
    text = file.read_text(encoding="utf-8")
    assert place in text
    file.write_text(text.replace(place, place + lines if after else lines + place, 1), encoding="utf-8")
