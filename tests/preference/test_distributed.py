"""Two processes give the same curves and weights as one."""

import json
from pathlib import Path

import pytest
from preference.two_ranks import MODES, RUNS, begin_run, start_run
from safetensors.torch import load_file
from small_training import ALONE
from training.test_distributed import assert_same_weights, torchrun

from instruct.training.history import History

pytestmark = pytest.mark.slow  # the machinery is that of fine-tuning, whose own test is not


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Small tensors."""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two-ranks")
    for mode in MODES:
        begin_run(folder / f"state for {mode}")
    ended = torchrun(str(Path(__file__).with_name("two_ranks.py")), str(folder))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


def assert_same_run(folder: Path, name: str, settings, tmp_path: Path) -> History:
    trainer = start_run({**settings, "save_minutes": 0.0}, tmp_path, ALONE)
    history = trainer.fit()
    found = History.restore(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    assert [point.loss for point in found.train] == pytest.approx([point.loss for point in history.train], rel=1e-4)
    assert len({point.loss for point in history.train}) == history.step > 4, "a curve that is flat tells nothing"
    for ours, theirs in zip([*found.train[1:], *found.val[1:]], [*history.train[1:], *history.val[1:]], strict=True):
        assert ours.measures == pytest.approx(dict(theirs.measures), rel=1e-3, abs=1e-4)
    assert_same_weights(load_file(folder / f"{name}.safetensors"), trainer._model.state_dict())
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(two_processes, tmp_path, mode, name):
    assert_same_run(two_processes, f"{mode} {name}", RUNS[name], tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_state_of_one_process_is_gone_on_with_by_two(two_processes, tmp_path, mode):
    assert_same_run(two_processes, f"{mode} goes on", {}, tmp_path)
