"""A second run in a clean clone: the same bytes pass, and what differs is named."""

import json
import shutil

import pytest
import yaml
from small_pipeline import commit_all, git, leaves, run

from instruct.core.errors import InstructError
from instruct.tools.verify import (
    bring_data,
    clone,
    differences,
    missing_from_commit,
    stale_stages,
    value_differences,
    verify,
    without_results,
)

pytestmark = pytest.mark.usefixtures("warm_start")


@pytest.mark.slow
def test_second_run_gives_the_same_and_touches_nothing(workplace, tmp_path):
    before = git(workplace, "status", "--porcelain", "--ignored")
    assert verify(workplace, tmp_path / "kept") == []
    assert git(workplace, "status", "--porcelain", "--ignored") == before
    # It really ran: the results are there, in a clone that had none.
    assert (tmp_path / "kept/models/sft/best/model.safetensors").is_file()
    assert (tmp_path / "kept/.dvc/cache").is_dir()


@pytest.mark.slow
def test_result_that_a_second_run_does_not_give_is_named(workplace):
    """Another number in a metric, as from another machine; the lock is made to fit."""
    path = workplace / "metrics/evaluate.json"
    values = json.loads(path.read_text())
    (name, was), *_ = [(key, value) for key, value in leaves(values) if isinstance(value, float)]
    path.write_text(path.read_text().replace(str(was), "33.3333", 1))
    # `dvc commit` accepts what a stage did not make.
    done = run("dvc", "commit", "--force", "evaluate", "plot", cwd=workplace)
    assert done.returncode == 0, done.stderr
    commit_all(workplace)
    lines = verify(workplace)
    assert any(line.startswith(f"metrics/evaluate.json: {name} is {was}, was 33.3333") for line in lines), lines
    first = (
        "dvc.lock: evaluate: metrics/evaluate.json has other bytes; here it begins, the inputs of evaluate are the same"
    )
    assert lines[0] == first


@pytest.mark.parametrize("hook", ["pre-commit", "pre-push"])
def test_verify_in_a_hook_leaves_head_and_index_of_the_user_alone(workplace, tmp_path, hook, monkeypatch):
    """As `git commit -a` calls a pre-commit hook, and `git push` from a worktree a pre-push hook."""
    place = workplace
    if hook == "pre-push":
        place = tmp_path / "worktree"
        git(workplace, "worktree", "add", "--quiet", "-b", "other", str(place))
        monkeypatch.setenv("GIT_DIR", str(workplace / ".git/worktrees/worktree"))
    else:
        shutil.copy(workplace / ".git/index", workplace / ".git/index.hook")
        monkeypatch.setenv("GIT_INDEX_FILE", ".git/index.hook")
        monkeypatch.setenv("GIT_PREFIX", "")
    before = {path: path.read_bytes() for path in (workplace / ".git").rglob("*") if path.name in ("HEAD", "index")}
    assert verify(place, lock_only=True) == []
    assert {path: path.read_bytes() for path in before} == before


def test_results_with_names_that_git_quotes_are_compared(cloned):
    (cloned / "metrics/données à moi.json").write_text('{"a": 1}')
    git(cloned, "add", "--all")
    git(cloned, "commit", "--quiet", "--message", "named")
    (cloned / "metrics/données à moi.json").write_text('{"a": 2}')
    (cloned / 'metrics/q"t.csv').write_text("a")
    assert list(differences(cloned)) == [
        "metrics/données à moi.json: a is 2, was 1",
        'metrics/q"t.csv: is made, but not committed',
    ]


@pytest.fixture
def cloned(workplace, tmp_path):
    clone(workplace, tmp_path / "clone")
    return tmp_path / "clone"


def swap(path, old, new):
    """Put `new` in the place of the first `old` of a file, which must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_clone_holds_the_commit_and_no_results(workplace, tmp_path):
    (workplace / "params.yaml").write_text("uncommitted")
    clone(workplace, tmp_path / "clone")
    assert (tmp_path / "clone/params.yaml").read_text() == git(workplace, "show", "HEAD:params.yaml")
    assert not (tmp_path / "clone/data/split").exists()
    assert not (tmp_path / "clone/.dvc/cache").exists()
    assert list(differences(tmp_path / "clone")) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("metrics/split.json", '"read": 40', '"read": 41', "metrics/split.json: read is 41, was 40"),
        ("metrics/split.json", '"read": 40,', "", 'metrics/split.json: read is "absent", was 40'),
        ("metrics/curves/val.csv", "\n0,", "\n1,", "metrics/curves/val.csv: 1 of 3 rows differ, first row 1: 1,"),
        ("metrics/split.json", '"read": 40', '"read": 40.0', "metrics/split.json: has other bytes"),
        ("metrics/curves/val.csv", "\n0,", '\n"0",', "metrics/curves/val.csv: has other bytes"),
        ("params.yaml", "split:", "Split:", "params.yaml: has other bytes"),
    ],
)
def test_what_differs_is_said_in_the_words_of_the_file(cloned, name, old, new, line):
    swap(cloned / name, old, new)
    (found,) = differences(cloned)
    assert found.startswith(line)


def test_file_that_is_gone_or_new_is_named(cloned):
    (cloned / "metrics/train.json").unlink()
    (cloned / "metrics/more.json").write_text("{}")
    assert list(differences(cloned)) == [
        "metrics/train.json: is not made any more",
        "metrics/more.json: is made, but not committed",
    ]


def test_stage_where_the_difference_begins_is_told_from_those_that_follow(cloned):
    lock = (cloned / "dvc.lock").read_text()
    digest = lock.split("path: models/sft\n")[1].split("md5: ")[1].split()[0]
    best = lock.split("path: models/sft/best\n")[1].split("md5: ")[1].split()[0]
    answers = lock.split("path: data/responses.json\n")[-1].split("md5: ")[1].split()[0]
    for old in (digest, best, answers):
        lock = lock.replace(old, old[::-1])
    (cloned / "dvc.lock").write_text(lock)
    lines = list(differences(cloned))
    assert lines[0].startswith("dvc.lock: train: models/sft has other bytes; here it begins, the inputs of train")
    assert [line for line in lines if "here it begins" in line] == lines[:1]
    assert "dvc.lock: evaluate: other inputs, the same outputs" in lines


def test_values_are_compared_to_the_leaf():
    assert list(value_differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1]}})) == ["a.b is 2, was 1"]
    assert list(value_differences([1], [2])) == ["all of it is [2], was [1]"]


@pytest.mark.parametrize(
    ("file", "old", "new", "stage"),
    [
        ("src/instruct/report/charts.py", "import", "# newer\nimport", "plot"),
        ("data/smoke.json", '"output": "', '"output": "x', "split"),
    ],
)
def test_lock_of_older_code_or_data_is_refused_before_anything_runs(workplace, file, old, new, stage):
    swap(workplace / file, old, new)
    commit_all(workplace)
    with pytest.raises(InstructError, match=rf"dvc\.lock: is not that of this commit: .* of {stage} are newer"):
        verify(workplace, lock_only=True)


def test_lock_of_the_commit_passes(workplace, cloned):
    assert stale_stages(cloned) == []
    assert verify(workplace, lock_only=True) == []


def test_commit_without_a_lock_has_nothing_to_compare_with(workplace):
    git(workplace, "rm", "--quiet", "dvc.lock")
    commit_all(workplace)
    with pytest.raises(InstructError, match=r"dvc\.lock: is not committed, so there is nothing to compare with"):
        verify(workplace)


def test_a_folder_whose_results_are_missing_is_hidden_as_a_whole_and_put_back(tmp_path):
    for name in ("mixed/README.md", "whole/README.md", "whole/made.json", "own/data.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    deps = [{"path": name, "md5": "1"} for name in ("mixed", "whole", "own", "absent")]
    outs = [
        {"path": name, "md5": "2"} for name in ("mixed/made.json", "whole/made.json", "absent/made.json", "top.json")
    ]
    lock = {"schema": "2.0", "stages": {"make": {"cmd": "x", "outs": outs}, "read": {"cmd": "x", "deps": deps}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(KeyboardInterrupt), without_results(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
            "dvc.lock",
            "own",
            "whole",
        ]
        raise KeyboardInterrupt
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_folder_that_is_not_empty_is_refused(workplace, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/mine").touch()
    with pytest.raises(InstructError, match="is not empty; give a new folder"):
        verify(workplace, tmp_path / "kept")
    with pytest.raises(InstructError, match="mine: is a file; give a new folder"):
        verify(workplace, tmp_path / "kept/mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InstructError, match="loop: is a link to no folder; give a new folder"):
        verify(workplace, tmp_path / "loop")


def test_outside_of_the_root_is_one_line(workplace, tmp_path):
    (tmp_path / "other").mkdir()
    for place, reason in ((tmp_path / "other", "not a git repository"), (workplace / "src", "folder inside a repo")):
        with pytest.raises(InstructError, match=rf"{reason}.*; run from the repository's root$") as refused:
            verify(place)
        assert "\n" not in str(refused.value)


def test_commit_that_lacks_what_git_keeps_is_refused(workplace):
    git(workplace, "rm", "--quiet", "-r", "metrics/train.json", "metrics/curves/val.csv")
    commit_all(workplace)
    with pytest.raises(InstructError) as refused:
        verify(workplace, lock_only=True)
    assert sorted(str(refused.value).splitlines()) == [
        f"{path}: dvc.lock names it, the commit lacks it; run dvc repro and commit"
        for path in ("metrics/curves/val.csv", "metrics/train.json")
    ]


@pytest.fixture
def small(tmp_path, hermetic):
    """A repository with the three files that DVC reads, and a function that commits other ones and looks at them."""
    folder = tmp_path / "small"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("/data/\n")
    (folder / "metrics").mkdir()

    def look(*, stages="a: {cmd: x}", lock="a: {cmd: x}", params="", files=()):
        (folder / "dvc.yaml").write_text(f"stages: {{{stages}}}" if ":" in stages else stages)
        (folder / "dvc.lock").write_text(f"stages: {{{lock}}}" if ":" in lock else lock)
        (folder / "params.yaml").write_text(params)
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("1")
        commit_all(folder)
        return missing_from_commit(folder)

    return look


OUTS = "a: {cmd: x, outs: [{path: data/x}, {path: 'metrics/odd [n]*.json'}, {path: metrics/plots}, {path: ../there}]}"


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({}, []),
        ({"stages": "a: {cmd: x}, b: {cmd: y}"}, ["dvc.lock: has no stage b, dvc.yaml has; run dvc repro and commit"]),
        (
            {"lock": "a: {cmd: x}, b: {cmd: y}"},
            ["dvc.lock: has a stage b, dvc.yaml has not; delete it there and commit"],
        ),
        ({"stages": "a: {foreach: [1, 2], do: {cmd: x}}", "lock": "a@1: {cmd: x}, a@2: {cmd: x}"}, []),
        ({"lock": OUTS, "files": ["metrics/odd [n]*.json", "metrics/plots/loss.csv"]}, []),
        ({"lock": OUTS, "files": ["metrics/plots/loss.csv", "metrics/odd n.json"]}, ["metrics/odd [n]*.json: "]),
        (
            {"lock": OUTS, "files": ["metrics/odd [n]*.json"]},
            ["metrics/plots: dvc.lock names it, the commit lacks it; "],
        ),
    ],
)
def test_lock_pipeline_and_commit_name_the_same_stages_and_outputs(small, fields, lines):
    found = small(**fields)
    assert len(found) == len(lines) and all(map(str.startswith, found, lines))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stages": "["}, r"^dvc.yaml:\d+: "),
        ({"lock": "["}, r"^dvc.lock:\d+: "),
        ({"params": "train: ["}, r"^params.yaml:\d+: "),
        ({"params": "a: 2020-13-45"}, r"^params.yaml:\d+: "),
        ({"lock": "3"}, "^dvc.lock: must be a mapping; correct it$"),
        ({"stages": ""}, '^dvc.yaml: holds no mapping "stages"; correct it$'),
    ],
)
def test_file_that_cannot_be_read_is_named(small, fields, message):
    with pytest.raises(InstructError, match=message):
        small(**fields)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("a: {cmdd: x}", "'./dvc.yaml' validation failed: 2 errors. extra keys not allowed, in stages -> a -> cmdd"),
        ('a: {cmd: "x ${nix.a}"}', "failed to parse 'stages.a.cmd' in 'dvc.yaml': Could not find 'nix.a'"),
    ],
)
def test_what_dvc_refuses_is_said_in_its_words_and_without_a_folder_that_is_gone(tmp_path, hermetic, stage, reason):
    git(tmp_path, "init", "--quiet")
    assert run("dvc", "init", "--quiet", cwd=tmp_path).returncode == 0
    (tmp_path / "dvc.yaml").write_text(f"stages: {{{stage}}}")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {a: {cmd: x}}")
    (tmp_path / "params.yaml").write_text("b: 1")
    commit_all(tmp_path)
    with pytest.raises(InstructError) as refused:
        verify(tmp_path, lock_only=True)
    assert str(refused.value).startswith(f"dvc.yaml: DVC refuses this commit ({reason}")
    assert "instruct-verify" not in str(refused.value) and "\n" not in str(refused.value)


def test_half_a_clone_is_not_named_by_a_folder_that_is_gone(tmp_path, hermetic):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "dvc.yaml").write_bytes(b"\xff")
    for name in ("dvc.lock", "params.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")
    commit_all(tmp_path)
    with pytest.raises(InstructError, match=r"^the clone/dvc\.yaml: not UTF-8"):
        verify(tmp_path, lock_only=True)


def test_commit_without_dvc_is_one_line(tmp_path, hermetic):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "params.yaml").touch()
    commit_all(tmp_path)
    with pytest.raises(InstructError, match=r"^\.dvc: .*dvc init") as refused:
        verify(tmp_path)
    assert "\n" not in str(refused.value)


def test_imported_data_comes_along_or_is_asked_for(workplace, cloned):
    (cloned / "data/set.json.dvc").write_text("outs:\n- path: set.json\n  md5: 0123\n")
    git(cloned, "add", "--force", "data/set.json.dvc")
    with pytest.raises(
        InstructError, match=r"data/set\.json: is not here, data/set\.json\.dvc describes it; run dvc pull"
    ):
        bring_data(workplace, cloned)
    (workplace / "data/set.json").write_text("[]")
    bring_data(workplace, cloned)
    assert (cloned / "data/set.json").read_text() == "[]"


def test_folder_of_imported_data_comes_along(workplace, cloned):
    (cloned / "data/sets.dvc").write_text("outs:\n- path: sets\n  md5: 0123.dir\n")
    git(cloned, "add", "--force", "data/sets.dvc")
    (workplace / "data/sets").mkdir()
    (workplace / "data/sets/one.json").write_text("[]")
    bring_data(workplace, cloned)
    assert (cloned / "data/sets/one.json").read_text() == "[]"
