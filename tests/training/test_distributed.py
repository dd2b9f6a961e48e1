import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import warm
from safetensors.torch import load_file
from small_training import ALONE, CPU, open_store, run_training
from training.two_processes import CUT_OFF_AFTER, MODES, RUNS, begin_run, start_run, whole_run

from instruct.core.errors import ParamsError
from instruct.training.distributed import Parallel, gather_all, scatter_like, start_parallel
from instruct.training.history import History
from instruct.training.resume import STATE

ROOT = Path(__file__).parents[2]
modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(autouse=True)
def quick(one_thread):
    """Small tensors."""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real one, but it and the processes that it starts import no torch."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment["PYTHON_EXEC"] = str(warm.programs() / "python")
    options = ["--standalone", "--nproc-per-node", "2"]
    return warm.python("-m", "torch.distributed.run", *options, *arguments, cwd=ROOT, env=environment)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder in which two processes left their runs; before, one process began two for them to go on with."""
    folder = tmp_path_factory.mktemp("two-processes")
    for mode in MODES:
        begin_run(folder / f"state for {mode}", ALONE)
    ended = torchrun(str(Path(__file__).with_name("two_processes.py")), str(folder))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def one_process() -> Iterator[dict[str, tuple[History, dict[str, torch.Tensor]]]]:
    found = {}
    for name, settings in RUNS.items():
        model, arguments = start_run(settings)
        history = run_training(model, open_store(Path("unused")), **{**arguments, "save_minutes": 0.0})
        found[name] = history, model.state_dict()
    return found


def history_of(folder: Path, name: str) -> History:
    return History.restore(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def assert_same_run(folder: Path, name: str, history: History, weights: dict[str, torch.Tensor]) -> None:
    found = history_of(folder, name)
    assert [point.step for point in found.train] == [point.step for point in history.train]
    assert [point.tokens for point in found.train] == [point.tokens for point in history.train]
    for key in ("loss", "grad_norm"):
        ours, theirs = ([getattr(point, key) for point in one.train] for one in (found, history))
        assert ours == pytest.approx(theirs, rel=1e-4), key
    assert [point.loss for point in found.val] == pytest.approx([point.loss for point in history.val], rel=1e-4)
    stored = load_file(folder / f"{name}.safetensors")
    assert_same_weights(stored, weights)


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        ours = found[name]
        if name.endswith("c_attn.bias"):
            # A key's bias changes no attention: its gradient is rounding alone, which AdamW makes steps of.
            ours, weight = (torch.cat((one.chunk(3)[0], one.chunk(3)[2])) for one in (ours, weight))
        torch.testing.assert_close(ours, weight, rtol=1e-3, atol=2e-4, msg=name)


@modes
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(two_processes, one_process, mode, name):
    history, weights = one_process[name]
    assert len({point.loss for point in history.train}) == history.step > 4, "a curve that is flat tells nothing"
    assert_same_run(two_processes, f"{mode} {name}", history, weights)


def test_a_head_of_its_own_is_trained_apart_from_the_embedding(one_process):
    _, weights = one_process["untied llama"]
    head, embedding = weights["lm_head.weight"], weights["embed_tokens.weight"]
    before = start_run(RUNS["untied llama"])[0].state_dict()["lm_head.weight"]
    assert head.shape == embedding.shape and not torch.equal(head, embedding) and not torch.equal(head, before)


def test_smaller_last_step_is_really_smaller_than_the_world(one_process):
    history, _ = one_process["recomputed and unmasked, the last step smaller than the world"]
    assert history.step == 2 * 3  # 9 records in steps of 4, 4 and 1


@modes
def test_state_of_one_process_is_gone_on_with_by_two(two_processes, one_process, mode):
    history, weights = one_process["full"]
    found = history_of(two_processes, f"{mode} goes on")
    assert_same_run(two_processes, f"{mode} goes on", history, weights)
    # what one process had done is there to the bit
    assert found.train[:CUT_OFF_AFTER] == history.train[:CUT_OFF_AFTER]


def test_processes_with_different_data_are_all_refused_in_the_same_words(two_processes):
    told = {(two_processes / f"refusal of {rank}").read_text() for rank in range(2)}
    assert len(told) == 1 and told.pop().startswith("rank 1 has other data than rank 0; give every machine the same ")


@modes
def test_state_of_two_processes_is_gone_on_with_by_one(two_processes, one_process, mode, tmp_path):
    state = shutil.copytree(two_processes / f"state for one from {mode}", tmp_path / "state")
    assert (state / STATE).exists()
    model, arguments = start_run({})
    store = open_store(state, code="1")
    assert store.refusal() == ""
    history = run_training(model, store, **arguments)
    expected, weights = one_process["full"]
    begun = history_of(two_processes, f"{mode} full")
    assert history.train[:CUT_OFF_AFTER] == begun.train[:CUT_OFF_AFTER]
    assert [p.loss for p in history.train] == pytest.approx([p.loss for p in expected.train], rel=1e-4)
    assert_same_weights(model.state_dict(), weights)


@modes
def test_run_of_two_processes_that_was_cut_off_ends_with_the_same_bytes(two_processes, mode):
    assert history_of(two_processes, f"{mode} cut off") == history_of(two_processes, f"{mode} with dropout")
    cut_off, unbroken = (two_processes / f"{mode} {name}.safetensors" for name in ("cut off", "with dropout"))
    assert cut_off.read_bytes() == unbroken.read_bytes()


def metrics_of(folder):
    values = json.loads((folder / "metrics/train.json").read_text())
    return values, values.pop("details")


@pytest.mark.parametrize(("mode", "adapters"), [("ddp", False), ("fsdp", False), ("fsdp", True)])
def test_outputs_of_two_processes_equal_those_of_one(two_processes, tmp_path, mode, adapters):
    """Only rank 0 writes, whole tensors even where each rank holds a part."""
    whole_run(tmp_path, ALONE, adapters=adapters)
    theirs = two_processes / f"whole {mode}{' with adapters' if adapters else ''}"
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*") if path.is_file()) == names
    for name in names:
        if name.endswith(".safetensors"):
            assert_same_weights(load_file(theirs / name), load_file(tmp_path / name))
        elif not name.startswith("metrics"):
            assert (theirs / name).read_bytes() == (tmp_path / name).read_bytes()
    ours, (same,) = metrics_of(tmp_path)
    others, (details,) = metrics_of(theirs)
    assert {key: others[key] for key in ours} == pytest.approx(ours, rel=1e-4)
    for key, value in details.items():
        assert value == pytest.approx(same[key], rel=1e-4), key
    assert not (theirs / "models" / "resume").exists()


# One process


def test_a_rank_takes_every_so_manyth_record():
    assert [Parallel("ddp", rank, 3, rank).share(range(8)) for rank in range(3)] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert ALONE.share("abc") == ["a", "b", "c"]
    assert ALONE.total(2.5) == 2.5 and ALONE.any(True) and not ALONE.any(False)


def test_gathering_and_scattering_without_shards_changes_nothing():
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, requires_grad=True)}
    found = gather_all(tensors, keep=True)
    assert torch.equal(found["a"], tensors["a"]) and torch.equal(found["b"], tensors["b"])
    assert not found["b"].requires_grad
    assert gather_all(tensors, keep=False) == {}
    assert scatter_like(found["a"], tensors["a"]) is found["a"]


@pytest.mark.parametrize(
    ("mode", "environment", "message"),
    [
        ("none", {"WORLD_SIZE": "2", "RANK": "0"}, r"train\.parallel: none .*torchrun"),
        ("ddp", {}, r"train\.parallel is ddp, but torchrun did not start this process; set launch\.train to `torchrun"),
        ("fsdp", {}, r"train\.parallel is fsdp, but torchrun did not start this process"),
        (
            "ddp",
            {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"},
            r"train\.micro_batch_size x grad_accum_steps is 8, which 3 processes cannot share evenly; make it a mul",
        ),
    ],
)
def test_mode_that_does_not_fit_the_launch_is_refused_in_one_line(monkeypatch, mode, environment, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ParamsError, match=rf"^params\.yaml: {message}") as error,
        start_parallel(mode, examples_per_step=8, device=CPU),
    ):
        pass
    assert len(str(error.value).splitlines()) == 1


def test_one_process_under_torchrun_may_be_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with start_parallel("none", examples_per_step=8, device=CPU) as parallel:
        assert (parallel.is_main, parallel.world_size) == (True, 1)
