import json
import re
import webbrowser
from hashlib import md5

import pytest
from typer.testing import CliRunner
from viewing.repository import Repository, git, response

from instruct.cli import app
from instruct.core.errors import InstructError, ParamsError
from instruct.viewing import page as page_module
from instruct.viewing.blocks import Blocks, script_json
from instruct.viewing.collect import collect_runs
from instruct.viewing.open import open_page
from instruct.viewing.page import find_place, write_view


@pytest.fixture
def repository(tmp_path):
    repository = Repository(tmp_path, records=3)
    repository.write()
    repository.commit()
    return repository


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="view-data">(.*?)</script>', text, re.S)[1])


def block_of(page, name):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', text, re.S)[1])


def test_a_block_of_data_ends_no_script_and_is_the_same_value():
    value = {"</script>": ["<!--<script>", "\u2028\u2029 & ' \""]}
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_equal_data_stand_in_the_page_once(repository):
    blocks = Blocks()
    assert blocks.add([1, 2]) == blocks.add([1, 2]) != blocks.add([2, 1])
    repository.write(lr=1e-4)
    repository.keep_as_experiment("same-answers")
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    one, other = data_of(output)["runs"]
    assert (one["records"], one["systems"]) == (other["records"], other["systems"])


def test_the_same_runs_give_the_same_page(repository):
    one, other = repository.folder / "one.html", repository.folder / "other.html"
    write_view(repository.folder, one)
    write_view(repository.folder, other)
    assert one.read_bytes() == other.read_bytes()
    assert str(repository.folder) not in one.read_text(encoding="utf-8")


def test_the_page_has_no_address_of_another_place(repository):
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    text = output.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|src=|@import|url\((?!#)", text) == []


def test_texts_beyond_the_limit_are_left_out_and_that_is_said(repository, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_ANSWERS", 6)
    repository.write(lr=1e-4, seed=1)
    repository.keep_as_experiment("second")
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    first, second = data_of(output)["runs"]
    assert (first["left_out"], second["left_out"]) == (False, True)
    assert second["scores"]
    assert "the texts of 1 run are left out" in output.read_text(encoding="utf-8")


def test_no_finished_run_is_one_line(tmp_path):
    Repository(tmp_path, records=1)
    with pytest.raises(InstructError, match=r"^there is no finished run to show; `make repro`"):
        write_view(tmp_path, tmp_path / "view.html")
    assert not (tmp_path / "view.html").exists()


def test_an_unknown_run_to_compare_with_is_refused(repository):
    with pytest.raises(ParamsError, match=r'^there is no revision or experiment "nope"'):
        write_view(repository.folder, repository.folder / "view.html", against="nope")


def test_the_run_that_is_named_is_what_others_are_compared_with(repository):
    repository.write(lr=1e-4, seed=1)
    repository.keep_as_experiment("second")
    output = repository.folder / "view.html"
    write_view(repository.folder, output, against="second")
    assert data_of(output)["against"] == 1
    assert "compared with <b>second</b>" in output.read_text(encoding="utf-8")


def against_of(repository, name):
    """The commit of the run that the page compares with `name`; empty for the workspace."""
    runs = collect_runs(repository.folder, [name])
    return runs[find_place(runs, name, repository.folder)].revision.commit


def test_against_the_workspace_is_the_workspace_or_the_head_that_it_equals(repository):
    assert against_of(repository, "workspace") == git(repository.folder, "rev-parse", "HEAD")
    repository.write(lr=1e-4, seed=1)
    assert against_of(repository, "workspace") == ""


def test_a_workspace_without_a_run_says_so_where_its_report_would_stand(repository):
    (repository.folder / "metrics/train.json").unlink()
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    assert "The workspace holds no finished run." in output.read_text(encoding="utf-8")


def mark_of_the_workspace(repository):
    """The line that marks the workspace in its row, in its answers and above its report, and main nowhere."""
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    workspace, main = data_of(output)["runs"]
    (line,) = workspace["missing"]
    assert main["missing"] == []
    text = output.read_text(encoding="utf-8")
    assert f'<span class="warn">{line}</span>' in text and f'<p class="warn">{line}</p>' in text
    return line


def test_a_stale_run_is_marked_in_its_row_in_its_answers_and_above_its_report(repository):
    lock = (repository.folder / "dvc.lock").read_text()
    stage = "  train: {cmd: x, params: {params.yaml: {train.lr: 0.5}}}\n"
    repository.put("dvc.lock", lock.replace("stages:\n", f"stages:\n{stage}"))
    assert mark_of_the_workspace(repository).startswith("stale: train.lr ")


def test_a_leaked_test_set_is_marked_in_its_row_and_above_its_report(repository):
    split = json.loads((repository.folder / "metrics/split.json").read_text())
    across = {"groups": 3, "test": {"equal": 1, "near": 3}, "val": {"equal": 0, "near": 0}}
    repository.put("metrics/split.json", json.dumps(split | {"test": 8, "across": across}))
    assert mark_of_the_workspace(repository).startswith("3 of 8 test records have a near-duplicate in train")


def test_half_a_character_in_an_answer_is_a_question_mark(repository):
    escaped = json.dumps([response(f"r{i}", "half \ud83d of one", i) for i in range(3)])
    repository.put("data/responses.json", escaped)
    results = json.loads((repository.folder / "metrics/evaluate.json").read_text())
    results["systems"][1]["md5"] = md5(escaped.encode()).hexdigest()
    repository.put("metrics/evaluate.json", json.dumps(results))
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    workspace, _ = data_of(output)["runs"]
    assert block_of(output, workspace["systems"]["sft"])["text"] == ["half ? of one"] * 3


def test_the_lowest_validation_loss_is_on_the_page_however_long_its_curve_is(repository):
    losses = [1 + abs(step - 501) / 1000 for step in range(1000)]
    rows = "".join(f"{step},{100 * step},{loss}\n" for step, loss in enumerate(losses))
    for part in ("train", "val"):
        repository.put(f"metrics/curves/{part}.csv", f"step,tokens,loss\n{rows}")
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    curves = block_of(output, data_of(output)["runs"][0]["curves"])
    assert min(curves["val"]["loss"]) == min(losses) == 1.0
    assert [curves["val"][key][251] for key in ("step", "tokens", "loss")] == [501, 50100, 1.0]
    assert 501 not in curves["train"]["step"]  # alone among every second point it would bend the smoothed line


@pytest.mark.parametrize("column", ["tokens", "lr"])
def test_a_curve_without_a_column_costs_no_run_its_row_and_no_report(repository, column):
    file = repository.folder / "metrics/curves/train.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    place = rows[0].index(column)
    file.write_text("".join(",".join([*row[:place], *row[place + 1 :]]) + "\n" for row in rows))
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    text = output.read_text(encoding="utf-8")
    assert [run["missing"] for run in data_of(output)["runs"]] == [[], []]
    assert 'aria-label="Training and validation loss by optimizer step"' in text
    assert ('aria-label="Learning rate by optimizer step"' in text) == (column == "tokens")


def text_with(path, old, new):
    def edit(folder):
        file = folder / path
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return edit


BROKEN = [
    (text_with("metrics/evaluate.json", '"scored": 3,', ""), "metrics/evaluate.json of workspace: judges[0]."),
    (
        text_with("metrics/evaluate.json", '"differences"', '"difference"'),
        "metrics/evaluate.json of workspace: judges[0].",
    ),
    (text_with("metrics/evaluate.json", '"version": 2', '"version": 1'), "metrics/evaluate.json of workspace: "),
    (
        text_with("metrics/scores.csv", "r1,sums,,", "r1,sums,,nan"),
        "metrics/scores.csv of workspace:3: reference_base: ",
    ),
    (text_with("metrics/scores.csv", "r1,", "r0,"), "metrics/scores.csv of workspace:3: id"),
    (text_with("metrics/train.json", '"steps": 40', '"steps": [40]'), "metrics/train.json of workspace: steps"),
    (text_with("metrics/train.json", '"steps": 40', '"steps": true'), "metrics/train.json of workspace: steps"),
    (text_with("metrics/train.json", "0.9", "NaN"), "metrics/train.json of workspace: last_train_loss"),
    (text_with("metrics/train.json", "{", "[" * 100_000), "metrics/train.json of workspace"),
    (text_with("metrics/curves/val.csv", "loss", "lost"), "metrics/curves/val.csv of workspace"),
    (text_with("params.yaml", "lr: ", "lr: 2020-13-13 #"), "params.yaml of workspace"),
    (text_with("dvc.lock", "schema", "{{{"), "dvc.lock of workspace"),
    (text_with("data/responses.json", '"truncated_tokens": 0', '"truncated_tokens": NaN'), "data/responses.json"),
    (text_with("data/responses.json", '"r0"', '["r0"]'), "data/responses.json"),
]


@pytest.mark.parametrize(("break_it", "named"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_run_is_shown_with_what_is_wrong_and_costs_no_other_run_its_row(repository, break_it, named):
    repository.write(lr=1e-4, seed=1)
    break_it(repository.folder)
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    broken, main = data_of(output)["runs"]
    assert (broken["name"], main["name"], main["missing"]) == ("workspace", "main", [])
    assert any(line.startswith(named) for line in broken["missing"])
    text = output.read_text(encoding="utf-8")
    assert text.count('<tr role="row" data-run=') == 2
    assert str(repository.folder) not in text


def test_a_loss_that_is_no_finite_number_is_null_in_the_page_and_never_zero(repository):
    text_with("metrics/curves/val.csv", "\n3,300,", "\n3,300,nan,1\n3,300,")(repository.folder)
    text_with("metrics/curves/val.csv", "\n5,500,", "\n5,500,inf,1\n5,500,")(repository.folder)
    output = repository.folder / "view.html"
    write_view(repository.folder, output)
    losses = block_of(output, data_of(output)["runs"][0]["curves"])["val"]["loss"]
    assert [place for place, loss in enumerate(losses) if loss is None] == [3, 6]
    assert all(loss > 0 for loss in losses if loss is not None)


def test_the_command_writes_the_page_and_prints_where(repository, monkeypatch):
    monkeypatch.chdir(repository.folder)
    for variable in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    done = CliRunner().invoke(app, ["view"])
    assert done.exit_code == 0, done.output
    assert done.output == "build/view/index.html: 1 run\nno display found; open the file in a browser\n"
    assert (repository.folder / "build/view/index.html").is_file()


def test_with_a_display_the_browser_is_given_the_files_address(tmp_path, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    path = tmp_path / "a page.html"
    assert open_page(path)
    assert opened == [path.as_uri()]
