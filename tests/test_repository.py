"""The files around the code: what they promise to a fresh machine."""

import ast
import configparser
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import warm
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-bench.lock"]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def lines_of(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_dvc_sends_nothing_asks_for_nothing_and_stages_nothing():
    config = configparser.ConfigParser()
    config.read_string((ROOT / ".dvc" / "config").read_text(encoding="utf-8"))
    core = config["core"]
    assert not core.getboolean("analytics")
    assert not core.getboolean("check_update")
    assert not core.getboolean("autostage", fallback=False)
    assert not [section for section in config.sections() if section.startswith("remote")]


def test_dvcignore_hides_bytecode_and_has_no_bare_negation():
    patterns = lines_of(".dvcignore")
    assert "__pycache__/" in patterns
    assert "!" not in patterns


@pytest.fixture(scope="module")
def ignores(tmp_path_factory):
    """Whether Git would ignore a path, by the project's own .gitignore alone."""
    folder = tmp_path_factory.mktemp("ignore")
    if not shutil.which("git"):
        pytest.skip("git is not here")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    shutil.copy(ROOT / ".gitignore", folder)

    def ask(*paths):
        done = subprocess.run(
            ["git", "check-ignore", "-z", "--stdin"], cwd=folder, input="\0".join(paths), capture_output=True, text=True
        )
        return set(filter(None, done.stdout.split("\0")))

    return ask


def outs_of(key):
    for stage in STAGES.values():
        for out in stage.get(key, []):
            name, options = (out, {}) if isinstance(out, str) else next(iter(out.items()))
            yield name, options.get("cache", True)


def test_git_ignores_what_dvc_keeps_and_nothing_else(ignores):
    for key in ("outs", "metrics", "plots"):
        for name, cached in outs_of(key):
            assert bool(ignores(name)) == cached, name
    for name in ("data/instructions.json", "data/sources.yaml", "models/backbones.yaml", "dvc.lock", "params.yaml"):
        assert not ignores(name), name


def test_git_ignores_what_an_interrupted_run_leaves(ignores):
    for name in (
        "models/resume/sft/state.safetensors",
        "models/resume/dpo/best/config.json",
        "data/.responses.json.0-of-1.partial",
    ):
        assert ignores(name), name


@pytest.mark.parametrize("name", ["data", "models", "metrics", "resume", "split", "build", "report", "lib"])
def test_no_ignore_line_reaches_into_the_code(ignores, name):
    for path in (f"src/instruct/{name}/module.py", f"src/{name}.py", f"tests/{name}/test_module.py"):
        assert not ignores(path), path


def test_what_a_kill_or_an_editor_leaves_never_changes_a_result(tmp_path, ignores):
    """DVC does not hash it, while it sees all that dvc.yaml names."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    killed = ["data/preferred/.dpo.json.0-of-1.partial", "metrics/.summary.json.abcd.part"]
    left = [*killed, "data/preferred/.DS_Store", "src/.train.py.swp", "src/instruct/core/files.py~"]
    stages = [stage.get("do", stage) for stage in STAGES.values()]
    entries = [one for stage in stages for key in ("deps", "outs", "metrics", "plots") for one in stage.get(key, [])]
    used = [one if isinstance(one, str) else next(iter(one)) for one in entries]
    names = [*left, *(name for name in used if "$" not in name)]
    done = warm.python("-m", "dvc", "check-ignore", *names, cwd=tmp_path)
    assert done.stdout.splitlines() == left, done.stderr
    assert ignores(*killed) == set(killed)


def test_ignore_lines_that_name_a_place_are_anchored():
    unanchored = [line for line in lines_of(".gitignore") if not line.startswith("/")]
    assert set(unanchored) <= {"*.egg-info/", "*.partial", "*.part", "__pycache__/"}


def test_every_source_file_is_visible_to_git(ignores):
    files = [path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    wanted = [name for name in names if "__pycache__" not in name and ".egg-info/" not in name]
    assert len(wanted) > 50
    assert ignores(*wanted) == set()


@pytest.mark.parametrize("name", ["dvc.lock", "metrics/curves/val.csv", "metrics/summary.json"])
def test_git_makes_no_results_of_two_branches_results(tmp_path, name):
    """Each branch changed other lines, which Git would merge into a file that no run has written."""
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]

    def git(*arguments):
        return subprocess.run(["git", *author, *arguments], cwd=tmp_path, capture_output=True, text=True)

    def commit(*lines):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        git("add", "--all")
        assert git("commit", "--quiet", "--message", "results").returncode == 0

    shutil.copy(ROOT / ".gitattributes", tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    git("init", "--quiet", "--initial-branch", "main")
    commit(*range(30))
    git("checkout", "--quiet", "-b", "work")
    commit("mine", *range(1, 30))
    git("checkout", "--quiet", "main")
    commit(*range(29), "theirs")
    assert git("rebase", "main", "work").returncode != 0
    assert git("status", "--porcelain").stdout == f"UU {name}\n"
    assert "theirs" in (tmp_path / name).read_text() and "mine" not in (tmp_path / name).read_text()


def test_a_clone_under_any_autocrlf_holds_the_committed_bytes_and_no_changes(tmp_path):
    """Checksums are over bytes; with other line ends every file would look changed."""
    content = {
        "unix.json": b'{"a": 1}\n',
        "dos.csv": b"a,b\r\n1,2\r\n",
        "mixed.txt": b"a\r\nb\nc\r",
        "bytes.png": b"\0\r\n",
    }
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    for name, one in content.items():
        (tmp_path / name).write_bytes(one)

    def git(*arguments, cwd=tmp_path):
        author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(["git", *author, *arguments], cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    for way in ("true", "input", "false"):
        clone = tmp_path / f"clone-{way}"
        git("clone", "--quiet", "--config", f"core.autocrlf={way}", ".", str(clone))
        assert {name: (clone / name).read_bytes() for name in content} == content
        git("add", "--all", "--renormalize", cwd=clone)
        assert git("status", "--porcelain", cwd=clone) == ""


# Make


def outside_make():
    """The environment without what a make that runs these tests would hand on."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


@pytest.fixture
def plan(tmp_path):
    """What make would do on a fresh machine, as lines of shell."""
    if not shutil.which("make"):
        pytest.skip("make is not here")
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)

    def ask(target, *options):
        command = ["make", "-n", *options, target]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=outside_make())
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    ask.folder = tmp_path
    return ask


def test_environment_is_made_in_a_folder_whose_name_has_a_space(plan):
    folder = plan.folder / "my project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        ["make", "-n", "test", "test-gpu"], cwd=folder, capture_output=True, text=True, env=outside_make()
    )
    words = [shlex.split(line) for line in done.stdout.splitlines()]
    programs = {one[0] for one in words if not one[0].startswith("PYTHON=")}
    assert programs == {"python3", ".venv/bin/python", "touch", "pytest"}, done.stderr
    assert ["PYTHON=.venv/bin/python", "bash"] in [one[:2] for one in words]


def place(lines, pattern):
    found = [i for i, line in enumerate(lines) if re.search(pattern, line)]
    assert found, f"{pattern} is not in {lines}"
    return found[0]


@pytest.mark.parametrize(
    ("target", "locks", "does"),
    [
        ("repro", ["requirements.lock"], r"^dvc repro$"),
        ("smoke", ["requirements.lock"], r"^instruct smoke$"),
        ("test", ["requirements.lock", "requirements-dev.lock"], r"^pytest "),
        ("lint", ["requirements.lock", "requirements-dev.lock"], r"^mypy$"),
        ("bench", ["requirements.lock", "requirements-dev.lock"], r"^python "),
    ],
)
def test_each_target_first_makes_the_environment_from_the_lock(plan, target, locks, does):
    lines = plan(target)
    places = [place(lines, r"-m venv \.venv"), *(place(lines, rf"pip install .*-r {lock}") for lock in locks)]
    places.append(place(lines, does))
    assert places == sorted(places)
    installs = [line for line in lines if "pip install" in line and " -r " not in line]
    assert all("--no-deps" in line and "-e ." in line for line in installs if "torch==" not in line)


def test_finished_environment_is_not_made_again_until_a_lock_changes(plan):
    (plan.folder / ".venv").mkdir()
    for name in (".runtime", ".dev"):
        (plan.folder / ".venv" / name).touch()
    assert not [line for line in plan("test") if "venv" in line or "pip" in line]
    again = plan("test", "-W", "requirements-dev.lock")
    assert [line for line in again if "pip install" in line and "requirements-dev.lock" in line]
    assert not [line for line in again if "-r requirements.lock" in line]


def test_lock_writes_every_lock_anew(plan):
    lines = plan("lock")
    assert {file for line in lines for file in re.findall(r"-o (\S+)", line)} == {f"build/{lock}" for lock in LOCKS}
    assert f"for lock in {' '.join(LOCKS)};" in lines[-1]


def test_make_calls_dvc_with_a_site_cache_of_the_users_own(plan):
    kept = {name: value for name, value in outside_make().items() if name != "DVC_SITE_CACHE_DIR"}
    (plan.folder / "show.mk").write_text("include Makefile\nshow:\n\t@echo $$DVC_SITE_CACHE_DIR\n", encoding="utf-8")
    command = ["make", "-f", "show.mk", "show"]
    environment = kept | {"XDG_CACHE_HOME": str(plan.folder / "cache")}
    done = subprocess.run(command, cwd=plan.folder, capture_output=True, text=True, env=environment)
    folder = plan.folder / "cache" / "instruct" / "dvc"
    assert done.stdout == f"{folder}\n", done.stderr
    assert folder.stat().st_mode & 0o777 == 0o700


def test_repro_checks_the_settings_before_it_computes(plan):
    lines = plan("repro")
    assert place(lines, r"^instruct check$") < place(lines, r"^dvc repro$")


def test_help_lists_every_target(plan):
    done = subprocess.run(["make", "help"], cwd=plan.folder, capture_output=True, text=True, env=outside_make())
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == set(targets) >= {"help", "repro", "smoke", "test", "lint", "bench"}


# Packages


def name_of(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_every_line_by_version_and_hash_and_names_no_server(lock):
    for pin in pins_of(lock):
        pin, *hashes = pin.split(" --hash=")
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; [^:]+)?", pin), pin
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pin


def test_only_torch_and_what_its_builds_bring_have_no_hash():
    """Its build is the machine's, so the Makefile installs it by version."""
    assert not [pin for lock in LOCKS for pin in pins_of(lock) if re.match(r"torch==|nvidia-|cuda-|triton", pin)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    torch = next(one for one in PROJECT["dependencies"] if one.startswith("torch=="))
    assert f"TORCH := {torch}\n" in makefile
    unhashed = [line for line in makefile.splitlines() if "pip install" in line and "--require-hashes" not in line]
    assert all(re.search(r"\$\(TORCH\)$|--no-build-isolation -e \.$|install -q uv$", line) for line in unhashed)


def pins_of(lock):
    """Each pin in one line, its hashes behind it."""
    return re.sub(r" \\\n +", " ", (ROOT / lock).read_text(encoding="utf-8")).splitlines()


def pins(lock):
    return {name_of(pin): pin.split("==")[1].split()[0] for pin in pins_of(lock)}


def test_locks_hold_what_the_project_needs_and_agree():
    runtime, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} - {"torch"} <= set(runtime)
    assert {name_of(requirement) for requirement in PROJECT["optional-dependencies"]["dev"]} <= set(dev)
    assert {name: dev[name] for name in runtime if name in dev and dev[name] != runtime[name]} == {}


def test_packages_that_the_user_named_are_needed_at_run_time():
    needed = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    assert {"torch", "tiktoken", "dvc", "requests", "matplotlib", "pyyaml"} <= needed


def test_ci_runs_on_every_python_that_the_project_says_it_supports():
    """From the oldest that pyproject.toml admits to the newest that it names, with none left out."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/main.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    named = [one.split(" :: ")[-1] for one in PROJECT["classifiers"] if re.search(r" :: 3\.\d+$", one)]
    assert versions == named
    assert PROJECT["requires-python"] == f">={versions[0]}"


def test_the_citation_names_the_projects_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.parametrize("name", ["README.md", "RUNBOOKS.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_relative_link_of_the_root_pages_leads_somewhere(name):
    """Files exist, and a heading has the anchor that GitHub gives it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        assert (ROOT / (path or name)).exists(), target
        if anchor:
            assert anchor in anchors_of((ROOT / (path or name)).read_text(encoding="utf-8")), target


def anchors_of(markdown):
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", markdown, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def defined_in(path):
    """All names that a module assigns, defines or imports, at its top level or below."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_scripts_that_no_type_check_reads_import_names_that_exist():
    for script in [*ROOT.glob("docs/**/*.py"), *ROOT.glob("tests/benchmarks/*.py"), *ROOT.glob("tests/gpu/*.py")]:
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("instruct."):
                continue
            module = ROOT / "src" / node.module.replace(".", "/")
            known = {path.stem for path in module.glob("*")}
            file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            missing = {alias.name for alias in node.names} - known - set(defined_in(file))
            assert not missing, f"{script.relative_to(ROOT)}: {node.module} has no {', '.join(missing)}"


def test_nothing_of_the_code_unpickles_or_needs_a_path_of_its_own():
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\btorch\.load\(|\bimport pickle\b|allow_pickle=True|sys\.path\.(insert|append)", text), (
            path
        )
