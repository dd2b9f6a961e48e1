import json
import resource
import threading
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from grids import thinned
from safetensors import safe_open
from safetensors.torch import save_file
from small_training import (
    lora_params,
    loss_and_gradients,
    make_batch,
    open_store,
    random_examples,
    run_training,
    small_model,
    train_params,
    weights_of,
)

from instruct.core.errors import CheckpointError
from instruct.core.fingerprint import Fingerprint
from instruct.model.lora import add_lora
from instruct.training import resume
from instruct.training.loop import make_optimizer
from instruct.training.resume import PROGRESS, STATE, VERSION, ResumeStore
from instruct.training.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN_SET, VAL_SET = random_examples(10, seed=1), random_examples(4, seed=2)


class Killed(Exception):
    """Stands for the end of the process: nothing of ours handles it."""


def trained(family="gpt2", **lora):
    model = small_model(family)
    if lora:
        add_lora(model, lora_params(**lora), seed=0)
    optimizer = make_optimizer(model, train_params())
    for _ in range(3):
        optimizer.zero_grad()
        _, gradients = loss_and_gradients(model, make_batch(TRAIN_SET, "packed"))
        for name, weight in model.named_parameters():
            weight.grad = gradients[name]
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("lora", [{}, {"r": 2}])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_state_goes_through_the_file_exactly(tmp_path, family, lora):
    model, optimizer = trained(family, **lora)
    store = open_store(tmp_path / "resume", code="1")
    store.save(model, optimizer, {"step": 3, "loss": 1 / 3}, write=True)
    fresh = small_model(family)
    if lora:
        add_lora(fresh, lora_params(**lora), seed=99)
    fresh_optimizer = make_optimizer(fresh, train_params())
    assert open_store(tmp_path / "resume", code="1").load(fresh, fresh_optimizer) == {"step": 3, "loss": 1 / 3}
    assert weights_of(fresh) == weights_of(model)
    restored = dict(fresh.named_parameters())
    compared = 0
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        ours, theirs = fresh_optimizer.state[restored[name]], optimizer.state[weight]
        assert ours.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key in ours:
            assert torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype
        assert float(ours["step"]) == 3
        compared += 1
    assert compared


def test_state_of_an_adapter_run_holds_only_adapters(tmp_path):
    model, optimizer = trained(r=2)
    open_store(tmp_path).save(model, optimizer, {}, write=True)
    with safe_open(tmp_path / STATE, framework="pt") as file:
        assert all(name.endswith((".lora_A", ".lora_B")) for name in set(file.keys()) - {PROGRESS})


def test_header_has_room_however_long_the_history(tmp_path):
    """safetensors refuses a header of more than 100 MB."""
    model, optimizer = trained()
    store = open_store(tmp_path, code="1")
    progress = {"train": [0.1] * 100_000}
    store.save(model, optimizer, progress, write=True)
    content = (tmp_path / STATE).read_bytes()
    assert int.from_bytes(content[:8], "little") < 10_000 < len(json.dumps(progress)) < len(content)
    assert store.load(model, optimizer) == progress


def test_process_that_does_not_write_leaves_nothing(tmp_path):
    model, optimizer = trained()
    open_store(tmp_path / "resume").save(model, optimizer, {}, write=False)
    assert not (tmp_path / "resume").exists()


def test_no_state_is_no_refusal(tmp_path):
    store = open_store(tmp_path / "resume", code="1")
    assert store.refusal() == ""
    model, optimizer = trained()
    assert store.load(model, optimizer) is None


# A state of another run


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"params train": "2", "code": "1"}, "params train differs"),
        ({"params train": "2", "code": "2"}, "code, params train differ"),
        ({"params train": "1", "code": "1", "data/split/val.json": "0"}, "data/split/val.json differs"),
        ({"params train": "1"}, "code differs"),
    ],
)
def test_state_of_another_run_is_refused_in_words_and_not_used(tmp_path, now, words):
    model, optimizer = trained()
    store = open_store(tmp_path / "resume", **{"params train": "1", "code": "1"})
    store.save(model, optimizer, {"step": 3}, write=True)
    other = open_store(tmp_path / "resume", **now)
    assert other.refusal() == (
        f"{tmp_path / 'resume'} holds the state of another run ({words}); starting from the beginning"
    )
    fresh = small_model("gpt2")
    assert other.load(fresh, make_optimizer(fresh, train_params())) is None
    assert weights_of(fresh) == weights_of(small_model("gpt2"))
    assert store.refusal() == "", "a refused state stays until the new run has something to keep"


def best_of(model, step):
    return step, Snapshot(model.state_dict(), keep=True)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_first_write_leaves_nothing_of_another_run(tmp_path):
    """Otherwise the best weights of two runs could mix."""
    model, optimizer = trained()
    old = open_store(tmp_path / "resume", code="1")
    old.save(model, optimizer, {}, best_of(model, 7), write=True)
    (old.folder / "best").mkdir()
    (old.folder / "best" / "adapter_config.json").write_text("{}")
    new = open_store(tmp_path / "resume", code="2")
    assert new.load(model, optimizer) is None
    new.save(model, optimizer, {}, best_of(model, 2), write=True)
    assert names(new.folder) == ["best-2.safetensors", STATE]
    assert new.refusal() == ""


def test_going_on_keeps_the_best_and_clears_what_killed_writes_left(tmp_path):
    model, optimizer = trained()
    before = open_store(tmp_path / "resume", code="1")
    before.save(model, optimizer, {"step": 1}, best_of(model, 1), write=True)
    (before.folder / f".{STATE}.xyz.part").write_bytes(b"half")
    after = open_store(tmp_path / "resume", code="1")
    assert after.load(model, optimizer) == {"step": 1}
    assert {name: tensor.numpy().tobytes() for name, tensor in after.load_best(1).items()} == weights_of(model)
    after.save(model, optimizer, {"step": 2}, best_of(model, 1), write=True)
    assert names(after.folder) == ["best-1.safetensors", STATE]
    assert after.load(model, optimizer) == {"step": 2}


def test_best_weights_are_written_once_and_older_ones_go(tmp_path):
    model, optimizer = trained()
    store = open_store(tmp_path, code="1")
    store.save(model, optimizer, {}, best_of(model, 1), write=True)
    written = store.best_file(1).stat()
    store.save(model, optimizer, {}, best_of(model, 1), write=True)
    assert store.best_file(1).stat().st_ino == written.st_ino
    store.save(model, optimizer, {}, best_of(model, 4), write=True)
    assert names(tmp_path) == ["best-4.safetensors", STATE]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_state_without_its_best_weights_is_refused(tmp_path, damage):
    model, optimizer = trained()
    store = open_store(tmp_path, code="1")
    store.save(model, optimizer, {}, best_of(model, 3), write=True)
    if damage == "missing":
        store.best_file(3).unlink()
    else:
        cut(store.best_file(3))
    assert store.refusal().startswith(f"{store.best_file(3)} is damaged (")
    assert open_store(tmp_path, code="1").load(model, optimizer) is None


def test_state_is_what_it_was_when_saving_began_though_training_goes_on(tmp_path, monkeypatch):
    model, optimizer = trained()
    go_on = threading.Event()
    write = resume.write_safetensors

    def slow(*arguments):
        assert go_on.wait(30)
        write(*arguments)

    monkeypatch.setattr(resume, "write_safetensors", slow)
    store = ResumeStore(tmp_path, Fingerprint(parts={}))
    expected = weights_of(model)
    store.save(model, optimizer, {"step": 3}, best_of(model, 3), write=True)
    assert store.busy
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    go_on.set()
    store.wait()
    assert not store.busy
    fresh = small_model("gpt2")
    store.load(fresh, make_optimizer(fresh, train_params()))
    assert weights_of(fresh) == expected
    assert {name: tensor.numpy().tobytes() for name, tensor in store.load_best(3).items()} == expected


def test_a_state_never_replaces_one_that_was_saved_after_it(tmp_path, monkeypatch):
    """As where Ctrl-C comes while the state of some steps before is still being written to a slow disk."""
    model, optimizer = trained()
    write, number, later = resume.write_safetensors, count(), threading.Event()

    def slow(*arguments):
        if next(number) == 0:
            later.wait(0.5)
        write(*arguments)

    monkeypatch.setattr(resume, "write_safetensors", slow)
    store = ResumeStore(tmp_path, Fingerprint(parts={}))
    store.save(model, optimizer, {"step": 1}, write=True)
    first = store._writing
    store.save(model, optimizer, {"step": 2}, write=True)
    store.wait()
    later.set()
    assert first is not None
    first.result()
    assert store.load(model, optimizer) == {"step": 2}


def test_no_state_is_still_being_written_when_training_has_ended(tmp_path, monkeypatch):
    """Else a finished run, whose state is removed, could leave one behind."""
    write, release, ended = resume.write_safetensors, threading.Event(), []
    store = ResumeStore(tmp_path / "resume", Fingerprint(parts={}))
    wait = store.wait

    def slow(*arguments):
        release.wait(30)
        write(*arguments)
        ended.append(arguments[0])

    def release_and_wait():
        if store._writing is not None:
            release.set()
        wait()

    monkeypatch.setattr(resume, "write_safetensors", slow)
    monkeypatch.setattr(store, "wait", release_and_wait)
    try:
        history = run_training(small_model("gpt2"), store, TRAIN_SET[:8], VAL_SET)
        assert history.step == 2 and ended == [store.folder / STATE]
    finally:
        release.set()


def test_write_that_fails_in_its_thread_ends_training_at_the_next_step(tmp_path):
    store = ResumeStore(tmp_path / "resume", Fingerprint(parts={}))
    with files_of_at_most(5_000), pytest.raises(CheckpointError, match="cannot be written"):
        run_training(small_model("gpt2"), store, TRAIN_SET, VAL_SET, epochs=20)


def test_forgotten_state_is_gone(tmp_path):
    model, optimizer = trained()
    store = open_store(tmp_path / "resume")
    store.save(model, optimizer, {}, write=True)
    (store.folder / "best").mkdir()
    store.forget()
    assert list(tmp_path.iterdir()) == []
    store.forget()


def test_state_of_another_version_is_refused_in_words_and_not_used(tmp_path):
    model, optimizer = trained()
    stored = {"fingerprint": {"code": "1"}, "progress": {"step": 3}, "best": None}
    save_file({}, tmp_path / STATE, metadata={"state": json.dumps(stored)})  # as version 1 had it
    store = open_store(tmp_path, code="1")
    assert store.refusal() == f"{tmp_path} holds the state of another version; starting from the beginning"
    assert store.load(model, optimizer) is None


# A state that is damaged


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_byte_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def one_byte_too_many(path):
    path.write_bytes(path.read_bytes() + b"\0")


def garbage(path):
    path.write_bytes(b"\xff\x00nothing of use" * 100)


def empty(path):
    path.write_bytes(b"")


def without_metadata(path):
    save_file({"model.x": torch.zeros(1)}, path)


def without_progress(path):
    save_file({"model.x": torch.zeros(1)}, path, metadata={"version": VERSION})


def with_progress(text):
    def write(path):
        stored = torch.frombuffer(bytearray(text, "latin-1"), dtype=torch.uint8)
        save_file({"model.x": torch.zeros(1), PROGRESS: stored}, path, metadata={"version": VERSION})

    return write


@pytest.mark.parametrize(
    "damage",
    [
        cut, one_byte_short, one_byte_too_many, garbage, empty,
        without_metadata, without_progress,
        with_progress("{"), with_progress("\xff"), with_progress("[]"), with_progress("null"), with_progress("{}"),
        with_progress('{"fingerprint": {}}'),
        with_progress('{"fingerprint": [], "progress": {}}'),
        with_progress('{"fingerprint": {"code": "1"}, "progress": 3}'),
        with_progress('{"fingerprint": {"code": "1"}, "progress": {}}'),
        with_progress('{"fingerprint": {"code": "1"}, "progress": {}, "best": "one"}'),
    ],
)  # fmt: skip
def test_damaged_state_is_refused_in_words_and_training_starts_anew(tmp_path, damage):
    model, optimizer = trained()
    open_store(tmp_path / "resume", code="1").save(model, optimizer, {"step": 3}, write=True)
    damage(tmp_path / "resume" / STATE)
    store = open_store(tmp_path / "resume", code="1")
    refusal = store.refusal()
    assert refusal.startswith(f"{tmp_path / 'resume' / STATE} is damaged (")
    assert refusal.endswith("); starting from the beginning")
    assert len(refusal.splitlines()) == 1
    model = small_model("gpt2")
    history = run_training(model, store, TRAIN_SET, VAL_SET)
    assert history.step == 3
    unbroken = small_model("gpt2")
    run_training(unbroken, open_store(tmp_path / "other", code="1"), TRAIN_SET, VAL_SET)
    assert weights_of(model) == weights_of(unbroken)


# Going on


RUNS = {
    "full": {},
    "adapters with dropout": {"lora": lora_params(r=2, dropout=0.3)},
    "accumulated and padded": {"micro_batch_size": 2, "grad_accum_steps": 2, "batching": "padded"},
    "unmasked, early stop": {"prompt_loss_weight": 1.0, "patience": 2, "lr": 0.05, "epochs": 4},
}


def start(family, tmp_path, name, on_evaluation=lambda point: None, **changes):
    """One life of a process: everything anew but the folder."""
    model = small_model(family)
    if "lora" in changes:
        add_lora(model, changes["lora"], seed=0)
    settings = {"epochs": 3, "eval_every": 2, **changes}
    return model, lambda: run_training(
        model, open_store(tmp_path / name, code="1"), TRAIN_SET, VAL_SET, on_evaluation, **settings
    )


@pytest.mark.parametrize(("name", "family"), thinned(list(RUNS), ["gpt2", "llama"], together=1))
def test_run_that_is_cut_off_at_every_evaluation_ends_as_the_unbroken_one(tmp_path, family, name):
    model, life = start(family, tmp_path, "unbroken", **RUNS[name])
    unbroken = life()
    assert unbroken.step >= 6
    if "patience" in RUNS[name]:
        assert unbroken.stopped_early

    seen: set[int] = set()

    def kill_once_a_step(point):
        if point.step not in seen:
            seen.add(point.step)
            raise Killed

    lives = 0
    while True:
        lives += 1
        survivor, life = start(family, tmp_path, "killed", kill_once_a_step, **RUNS[name])
        try:
            history = life()
            break
        except Killed:
            continue
    assert lives == len(unbroken.val) + 1
    assert weights_of(survivor) == weights_of(model)
    assert history == unbroken


@pytest.mark.parametrize(("minutes", "saved"), [(2.0, [0, 1, 1, 3, 3, 5, 5]), (0.5, [0, 1, 2, 3, 4, 5, 6])])
def test_state_is_saved_when_so_many_minutes_have_passed(tmp_path, monkeypatch, minutes, saved):
    """By a clock that moves one minute at each evaluation, the first of which is before the first step."""
    now = 0.0
    steps: list[int] = []

    def note(point):
        nonlocal now
        now += 60
        path = tmp_path / "resume" / STATE
        done = 0
        if path.exists():
            with safe_open(path, framework="pt") as file:
                done = len(json.loads(file.get_tensor(PROGRESS).numpy().tobytes())["progress"]["train"])
        if point.step:
            steps.append(done)

    monkeypatch.setattr("instruct.training.trainer.time", SimpleNamespace(monotonic=lambda: now))
    run_training(small_model("gpt2"), open_store(tmp_path / "resume"), random_examples(28), VAL_SET, note,
                 eval_every=1, save_minutes=minutes)  # fmt: skip
    assert steps == saved


def test_save_minutes_zero_saves_nothing(tmp_path):
    run_training(small_model("gpt2"), open_store(tmp_path / "resume"), TRAIN_SET, VAL_SET, save_minutes=0.0)
    assert not (tmp_path / "resume").exists()


def test_dropout_of_a_step_depends_on_its_number_not_on_what_was_drawn_before(tmp_path):
    def run(name, disturb):
        model = small_model("gpt2")
        add_lora(model, lora_params(r=2, dropout=0.5), seed=0)
        run_training(
            model, open_store(tmp_path / name), TRAIN_SET, VAL_SET, lambda _: disturb and torch.rand(7), eval_every=1
        )
        return weights_of(model)

    assert run("a", False) == run("b", True)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dropout_depends_on_the_seed(tmp_path, dropout):
    """With one record the order is the same for every seed, so dropout is all that a seed can change."""

    def run(seed):
        model = small_model("gpt2")
        add_lora(model, lora_params(r=2, dropout=dropout), seed=0)
        run_training(
            model, open_store(tmp_path / str(seed)), TRAIN_SET[:1], VAL_SET, epochs=3, seed=seed, save_minutes=0.0
        )
        return weights_of(model)

    assert (run(1) == run(2)) is (dropout == 0)


# A disk that is full


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to write more into a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_the_state_before_untouched(tmp_path):
    model, optimizer = trained()
    store = open_store(tmp_path / "resume", code="1")
    store.save(model, optimizer, {"step": 3}, write=True)
    before = (store.folder / STATE).read_bytes()
    with files_of_at_most(10_000), pytest.raises(CheckpointError) as error:
        store.save(model, optimizer, {"step": 4}, write=True)
    text = str(error.value)
    assert text.startswith(f"{store.folder / STATE}: cannot be written (")
    assert text.endswith("the state before it is untouched, run the stage again to go on")
    assert (store.folder / STATE).read_bytes() == before
    assert [path.name for path in store.folder.iterdir()] == [STATE]
    assert store.load(model, optimizer) == {"step": 3}
