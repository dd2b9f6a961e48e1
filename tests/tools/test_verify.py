"""A second run in a clean clone: the same bytes pass, and what differs is named."""

import json

import pytest
from small_pipeline import commit_all, git, run

from instruct.errors import InstructError
from instruct.tools.verify import bring_data, clone, differences, stale_stages, value_differences, verify


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


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture
def cloned(workplace, tmp_path):
    clone(workplace, tmp_path / "clone")
    return tmp_path / "clone"


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
        ("metrics/report/loss.svg", "<svg", "<SVG", "metrics/report/loss.svg: has other bytes"),
    ],
)
def test_what_differs_is_said_in_the_words_of_the_file(cloned, name, old, new, line):
    text = (cloned / name).read_text(encoding="utf-8")
    assert old in text
    (cloned / name).write_text(text.replace(old, new, 1), encoding="utf-8")
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


def test_lock_of_older_code_is_refused_before_anything_runs(workplace):
    with (workplace / "src/instruct/plotting/figures.py").open("a") as file:
        file.write("# newer\n")
    commit_all(workplace)
    with pytest.raises(InstructError, match=r"dvc\.lock: is not that of this commit: .* of plot are newer"):
        verify(workplace, lock_only=True)


def test_lock_of_the_commit_passes(workplace, cloned):
    assert stale_stages(cloned) == []
    assert verify(workplace, lock_only=True) == []


def test_commit_without_a_lock_has_nothing_to_compare_with(workplace):
    git(workplace, "rm", "--quiet", "dvc.lock")
    commit_all(workplace)
    with pytest.raises(InstructError, match=r"dvc\.lock: is not committed, so there is nothing to compare with"):
        verify(workplace)


def test_folder_that_is_not_empty_is_refused(workplace, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/mine").touch()
    with pytest.raises(InstructError, match="is not empty; give a new folder"):
        verify(workplace, tmp_path / "kept")


def test_outside_of_git_is_one_line(tmp_path):
    with pytest.raises(InstructError, match="git rev-parse failed"):
        verify(tmp_path)


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
