"""What dvc.yaml says is what the scripts do: DVC follows neither imports nor what a script reads."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
# A stage of preference tuning is one for each of prefer.methods; without any there is none.
OPTIONAL = {name: stage["do"] for name, stage in PIPELINE["stages"].items() if "foreach" in stage}
STAGES = {name: OPTIONAL.get(name, stage) for name, stage in PIPELINE["stages"].items()}
PACKAGING = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
# Files of packages that no import shows.
PACKAGE_DATA = {
    file.relative_to(ROOT).as_posix()
    for package, patterns in PACKAGING.items()
    for pattern in patterns
    for file in SRC.joinpath(*package.split(".")).glob(pattern)
}
# What a user writes and Git keeps.
TRACKED_DATA = {
    "${split.data}",
    "${split.checks}",
    "${pairs.file}",
    "data/human-scores.csv",
    "data/preferred",
    "metrics/preferred",
}
# Packages whose `__init__` is more than a docstring.
WITH_CODE = {"src/instruct/cli/__init__.py"}
WAYS = {"parse_yaml", "read_yaml", "load_entries", "read_params", "PARAMS_FILE"}
YAML_READERS = {"yaml", "ruamel", "omegaconf", "dvc"}
# Modules of stages that read YAML.
READERS = {
    "src/instruct/core/parsing.py",  # YAML itself
    "src/instruct/core/params.py",  # params.yaml itself, a section at a time
    "src/instruct/core/ended.py",  # dvc.lock, to see whether DVC has recorded what an ended run made
    "src/instruct/core/inputs.py",  # what dvc.yaml declares, to see that it does not change meanwhile
    "src/instruct/backbones/catalog.py",  # models/backbones.yaml, of which dvc.yaml declares the entry in use
    "src/instruct/evaluation/rubrics.py",  # the rubrics beside it, which are among the deps
    "src/instruct/results/lock.py",  # its name
    "src/instruct/results/runs.py",  # the settings of runs, which `plot` reads with a run and shows nothing of
}
RUNS_BY_NAME = {
    "__import__",
    "import_module",
    "exec",
    "eval",
    "compile",
    "run_path",
    "run_module",
    "spec_from_file_location",
}


def script_of(stage):
    return re.search(r"src/\w+\.py", STAGES[stage]["cmd"])[0]


def arguments_of(stage):
    """The paths on the command line, those of NAME=PATH without the name."""
    return [argument.rpartition("=")[2] for argument in STAGES[stage]["cmd"].split(script_of(stage))[1].split()]


def names_of(entries):
    """Paths of outs, metrics, plots or params, of which each is a name or a mapping from the name to options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def products_of(stage):
    return [name for key in ("outs", "metrics", "plots") for name in names_of(STAGES[stage].get(key, []))]


@cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def module_file(name):
    """The file of a module of ours, or None."""
    path = SRC.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def imports_of(file):
    """The modules of ours that a file imports, wherever in it, with the packages around them."""
    return frozenset(found_imports(file))


def found_imports(file):
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                if found := module_file(".".join(parts[:end])):
                    yield found


@cache
def reached_from(script):
    """Every file below src that runs when a script runs."""
    reached, waiting = set(), [ROOT / script]
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imports_of(file)
    return {file.relative_to(ROOT).as_posix() for file in reached}


def below(file, folder):
    return file == folder or file.startswith(f"{folder}/")


def code_deps(stage):
    return [dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]


def name_of(node):
    """The last part of a name or an attribute: `load_params` of `params.load_params`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def sections_in(tree):
    """The sections of params.yaml that a module asks for, and what it does with load_params that is not to be read."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "load_params"]
    plain = [
        call for call in calls if len(call.args) == 2 and not call.keywords and isinstance(call.args[0], ast.Constant)
    ]
    mentions = [node for node in ast.walk(tree) if name_of(node) == "load_params"]
    renamed = [a for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names if a.asname]
    unclear = len(mentions) - len(plain) + sum(alias.name == "load_params" for alias in renamed)
    return {call.args[0].value for call in plain}, unclear


def settings_read_by(script):
    """Every section that a script, or what it imports, asks for, with the one setting of it that it takes, or None."""
    for name in reached_from(script):
        tree = parsed(ROOT / name)
        taken = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node.func) == "load_params":
                yield node.args[0].value, taken.get(id(node))


def ways_to_settings(tree):
    """What a module mentions that could read params.yaml in another way than by load_params."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A path, no message that speaks of the file.
            if re.fullmatch(r"(\S*/)?params\.yaml", node.value):
                yield node.value
        elif name_of(node) in WAYS:
            yield name_of(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names = [*module, *(alias.name for alias in node.names)]
            yield from (name for name in names if name in WAYS or name.split(".")[0] in YAML_READERS)


def hidden_imports(tree):
    """How a module runs code that the walk over its imports does not see."""
    return [name_of(node) for node in ast.walk(tree) if name_of(node) in RUNS_BY_NAME and not is_method_eval(node)]


def is_method_eval(node):
    """Whether this is the `eval` or `compile` of an object, such as a model or a pattern."""
    return isinstance(node, ast.Attribute) and node.attr in ("eval", "compile")


def test_the_walk_sees_what_python_itself_imports():
    code = (
        "import sys, pathlib; sys.path.insert(0, 'src'); import evaluate;"
        "print(*(m.__file__ for n, m in sys.modules.items() if n == 'evaluate' or n.split('.')[0] == 'instruct'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    really = {Path(name).resolve().relative_to(ROOT.resolve()).as_posix() for name in done.stdout.split()}
    assert really == reached_from("src/evaluate.py")


def test_every_script_is_a_stage_and_every_stage_a_script():
    assert {script_of(stage) for stage in STAGES} == {f"src/{path.name}" for path in SRC.glob("*.py")}
    always = [name for name in STAGES if name not in OPTIONAL]
    assert always == ["split", "augment", "quality", "train", "baseline", "generate", "evaluate", "plot"]
    assert {PIPELINE["stages"][name]["foreach"] for name in OPTIONAL} == {"${prefer.methods}"}


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_a_stage_runs_is_among_its_deps(stage):
    reached = {
        file for file in reached_from(script_of(stage)) if not file.endswith("/__init__.py") or file in WITH_CODE
    }
    missing = {file for file in reached if not any(below(file, dep) for dep in code_deps(stage))}
    assert missing == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_dep_of_a_stage_is_code_of_which_it_runs_nothing(stage):
    reached = reached_from(script_of(stage))
    assert [dep for dep in code_deps(stage) if not any(below(file, dep) for file in reached)] == []


def test_inits_hold_a_docstring_alone_so_that_no_stage_depends_on_them():
    for file in (SRC / "instruct").rglob("__init__.py"):
        name = file.relative_to(ROOT).as_posix()
        assert name in WITH_CODE or (ast.get_docstring(parsed(file)) and len(parsed(file).body) == 1), name


def test_data_files_of_packages_are_packaged_and_there():
    files = {file.relative_to(ROOT).as_posix() for file in (SRC / "instruct").rglob("*.*") if file.is_file()}
    assert {name for name in files if not name.endswith((".py", ".pyc"))} == PACKAGE_DATA


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_a_stage_are_the_sections_that_its_script_reads(stage):
    listed = set(names_of(STAGES[stage]["params"]))
    reads = settings_read_by(script_of(stage))
    used = {section if section in listed else f"{section}.{setting}" for section, setting in reads}
    # What is read of a setting that has settings of its own, as of prefer.lora, is not looked at.
    assert {".".join(name.split(".")[:2]) for name in listed - {"models/backbones.yaml"}} == used
    reads_table = "src/instruct/model/pretrained.py" in reached_from(script_of(stage))
    assert ("models/backbones.yaml" in listed) == reads_table


def test_stages_read_settings_by_load_params_alone():
    files = {file for stage in STAGES for file in reached_from(script_of(stage))}
    assert {file for file in files if any(ways_to_settings(parsed(ROOT / file)))} == READERS
    assert {file for file in files - READERS if sections_in(parsed(ROOT / file))[1]} == set()


@pytest.mark.parametrize(
    "code",
    [
        "from instruct.core.params import read_params",
        "from instruct.core import params\nparams.read_params()['train']['seed']",
        "from instruct.core import params as p\np.PARAMS_FILE.read_text()",
        "open('params.yaml')",
        "Path('../params.yaml').read_text()",
        "def late():\n    import yaml",
        "from ruamel.yaml import YAML",
        "from instruct.core.parsing import read_yaml",
        "from dvc.api import params_show",
    ],
)
def test_other_ways_to_settings_are_seen(code):
    assert list(ways_to_settings(ast.parse(code)))


@pytest.mark.parametrize(
    ("code", "sections", "unclear"),
    [
        ("load_params('train', TrainParams).lr", {"train"}, 0),
        ("params.load_params('train', TrainParams)", {"train"}, 0),
        ("load = load_params", set(), 1),
        ("load_params(section, TrainParams)", set(), 1),
        ("load_params(section='train', cls=TrainParams)", set(), 1),
        ("load_params('train', TrainParams, Path('other.yaml'))", set(), 1),
        ("from instruct.core.params import load_params as load", set(), 1),
    ],
)
def test_sections_are_read_off_plain_calls_and_other_uses_are_refused(code, sections, unclear):
    assert sections_in(ast.parse(code)) == (sections, unclear)


def test_stages_import_nothing_by_a_name_that_the_walk_cannot_see():
    files = {file for stage in STAGES for file in reached_from(script_of(stage))}
    assert {file: found for file in files if (found := hidden_imports(parsed(ROOT / file)))} == {}
    for code in (
        "import_module('instruct.core.git')",
        "importlib.import_module(name)",
        "exec(text)",
        "__import__('x')",
    ):
        assert hidden_imports(ast.parse(code)), code
    assert not hidden_imports(ast.parse("model.eval(); re.compile('x')"))


def test_every_section_of_params_is_used_by_a_stage_or_starts_one():
    sections = set(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
    used = {name.split(".")[0] for stage in STAGES.values() for name in names_of(stage["params"])}
    in_text = set(re.findall(r"\$\{(\w+)\.", (ROOT / "dvc.yaml").read_text(encoding="utf-8")))
    assert sections - used - in_text == {"serve"}  # what a tool reads must not make a stage stale


def test_no_setting_but_a_launcher_becomes_shell():
    """A path in a command would need quotes for blanks, and `$`, `;` or `&` in it would be the shell's."""
    used = {name for stage in STAGES.values() for name in re.findall(r"\$\{([^}]*)\}", stage["cmd"])}
    assert used == {"launch.train", "launch.generate"}  # commands by their nature


@pytest.mark.parametrize("stage", STAGES)
def test_a_script_imports_first_what_ends_it_with_dvc(stage):
    imports = [node for node in parsed(ROOT / script_of(stage)).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    ours_and_large = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
    assert ours_and_large[0] == "instruct.core.beginning"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_locks_everything_that_it_writes(stage):
    tree = parsed(ROOT / script_of(stage))
    (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and name_of(node.func) == "run_stage"]
    (writes,) = [ast.literal_eval(one.value) for one in call.keywords if one.arg == "writes"]
    paths = dict(zip([one.arg for one in main.args.args], arguments_of(stage), strict=False))
    locked = [paths[name] for name in writes]
    assert [one for one in products_of(stage) if not any(below(one, place) for place in locked)] == []
    assert [place for place in locked if not any(below(one, place) for one in products_of(stage))] == []


@pytest.mark.parametrize("stage", STAGES)
def test_paths_on_the_command_line_are_those_that_dvc_knows(stage):
    known = [*STAGES[stage]["deps"], *products_of(stage)]
    for argument in arguments_of(stage):
        assert any(below(name, argument) for name in known), argument
    for product in products_of(stage):
        assert any(below(product, argument) for argument in arguments_of(stage)), product


def test_every_data_dep_is_made_by_an_earlier_stage_or_stands_in_git():
    made = []
    for stage in STAGES:
        for dep in STAGES[stage]["deps"]:
            if not dep.startswith("src/"):
                assert dep in TRACKED_DATA or any(below(dep, name) for name in made), f"{stage}: {dep}"
        made += products_of(stage)
    assert len(set(made)) == len(made)


def test_small_results_stay_in_git_and_dear_stages_keep_their_run_cache():
    for name, stage in STAGES.items():
        assert not {"always_changed", "frozen", "wdir"} & set(stage)
        for key in ("outs", "metrics", "plots"):
            for entry in stage.get(key, []):
                (path, options) = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
                in_git = path.startswith("metrics/") and not path.endswith(".html")
                assert (options.get("cache", True), "persist" in options) == (not in_git, False), path
                # A plain output that DVC does not cache switches the run cache off.
                assert key != "outs" or not in_git or name not in ("train", "baseline", "generate"), path


def test_dvcs_tables_show_the_summary_and_the_training_alone():
    shown = {name: names_of(stage["metrics"]) for name, stage in STAGES.items() if "metrics" in stage}
    optional = [path for name in OPTIONAL for path in shown.pop(name, [])]
    assert shown == {"train": ["metrics/train.json"], "evaluate": ["metrics/summary.json"]}
    assert optional == ["metrics/preferred/pairs.json", "metrics/preferred/prefer.json"]
    summary = json.loads((ROOT / "metrics/summary.json").read_text(encoding="utf-8"))
    assert len(summary) <= 12 and all(type(value) in (int, float) for value in summary.values())


def test_each_stage_says_what_it_does():
    assert all(stage["desc"] for stage in STAGES.values())


def test_every_plot_draws_columns_of_files_that_a_stage_makes():
    made = [product for stage in STAGES for product in products_of(stage)]
    for plot in PIPELINE["plots"]:
        (options,) = plot.values()
        assert set(options["y"]) <= set(made)


def test_the_registered_model_is_what_generate_reads():
    (artifact,) = PIPELINE["artifacts"].values()
    assert artifact["path"] in STAGES["generate"]["deps"]
    assert artifact["type"] == "model"


def test_other_training_asks_no_baseline_again():
    stage, others = STAGES["baseline"], {"train", "augment", "quality"}
    assert not others & set(names_of(stage["params"]))
    made = [product for name in others for product in products_of(name)]
    assert [dep for dep in stage["deps"] if any(below(dep, product) for product in made)] == []
