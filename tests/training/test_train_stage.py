"""src/train.py as a process: killed, interrupted, gone on with, and refused."""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
import warm
from safetensors import safe_open
from small_training import CPU

from instruct.model.pretrained import load_trained
from instruct.tools.smoke import copy_tree, make_small

ROOT = Path(__file__).parents[2]
STEPS = 26  # of the run that is killed
PATHS = ["data/split", "models/sft", "metrics/train.json", "metrics/curves"]


def change(file: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, file.read_text(encoding="utf-8"))
    assert count == 1, f"{pattern} stands {count} times in {file}"
    file.write_text(text, encoding="utf-8")


def set_params(folder: Path, **values: object) -> None:
    """Change settings of the section `train`, or of one that has the name alone."""
    file = folder / "params.yaml"
    before, train = file.read_text(encoding="utf-8").split("\ntrain:\n")
    train, after = re.split(r"\n(?=\w)", train, maxsplit=1)
    for name, value in values.items():
        pattern, new = rf"(?m)^( +){name}: (\[\]|\S+)", rf"\g<1>{name}: {value}"
        train, count = re.subn(pattern, new, train)
        if not count:
            before, count = re.subn(pattern, new, before)
        assert count == 1, f"{name} is {count} times in {file}"
    file.write_text(f"{before}\ntrain:\n{train}\n{after}", encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Path]:
    """A folder without a disk to wait for, where there is one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("train-stage")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def repository(workplace) -> Path:
    """A small copy of the repository, split, with a tiny random model: to be copied by each test."""
    folder = workplace / "repository"
    copy_tree(ROOT, folder)
    make_small(ROOT, folder)
    change(folder / "models/backbones.yaml", r"n_embd: 48, n_layer: 2, n_head: 4", "n_embd: 8, n_layer: 1, n_head: 2")
    # with one thread, since a second one would only wait for the first
    set_params(
        folder,
        num_threads=1,
        micro_batch_size=2,
        epochs=2,
        eval_every=12,
        save_minutes="1.0e-9",
        sample_tokens=2,
        lr="2.0e-2",
    )
    warm.python("src/split.py", "data/split", "metrics/split.json", cwd=folder).check_returncode()
    return folder


@pytest.fixture
def copy(repository, workplace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=workplace) as folder:
        yield Path(shutil.copytree(repository, Path(folder) / "copy"))


class Life:
    """One run of src/train.py."""

    def __init__(self, folder: Path, ask: Callable[[str], int]) -> None:
        self.folder, self._ask = folder, ask
        self._begin = len(self._all())
        self._pid = ask(str(folder))

    def _all(self) -> str:
        log = self.folder / "train.log"
        return log.read_text(encoding="utf-8") if log.exists() else ""

    @property
    def log(self) -> str:
        return self._all()[self._begin :]

    def wait(self) -> int:
        return self._ask("")

    def wait_for(self, text: str) -> None:
        for _ in range(6000):
            if text in self.log:
                return
            time.sleep(0.01)
        raise AssertionError(f"no {text} in {self.log}")

    def send(self, signal_: signal.Signals) -> None:
        os.kill(self._pid, signal_)  # the id is not used again before wait()


class Nursery:
    """A process that has imported everything and forks a life at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, folder: Path) -> Life:
        return Life(folder, self.ask)

    def run(self, folder: Path) -> Life:
        life = self.start(folder)
        assert life.wait() == 0, life.log
        return life


@pytest.fixture(scope="module")
def nursery(repository) -> Iterator[Nursery]:
    command = [str(warm.programs() / "python"), str(Path(__file__).with_name("nursery.py"))]
    with subprocess.Popen(
        command, cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "ready\n"
        yield Nursery(process)
        process.stdin.close()


def outputs(folder: Path) -> dict[str, bytes]:
    files = [path for top in ("models", "metrics") for path in (folder / top).rglob("*") if path.is_file()]
    paths = {path.relative_to(folder): path for path in files}
    del paths[Path("models/speed.json")]  # of clocks, and tracked by nobody
    return {str(one): path.read_bytes() for one, path in paths.items() if one.parts[:2] != ("models", "resume")}


def clear(folder: Path) -> None:
    """What DVC does before it runs the stage."""
    shutil.rmtree(folder / "models/sft", ignore_errors=True)
    shutil.rmtree(folder / "metrics/curves", ignore_errors=True)
    (folder / "metrics/train.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def unbroken(repository, workplace) -> dict[str, bytes]:
    """What `python src/train.py` leaves when nothing disturbs it."""
    folder = Path(shutil.copytree(repository, workplace / "unbroken"))
    command = [sys.executable, "src/train.py", *PATHS]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "going on" not in ended.stdout
    assert re.search(r"records/s, .* tokens/s \(.* of responses\), .* % of the matmul peak, \d+ MB", ended.stdout)
    speed = json.loads((folder / "models/speed.json").read_text())
    assert min(speed["seconds"][phase] for phase in ("load", "train", "evaluate", "save")) >= 0
    assert 0 < speed["response_tokens_per_s"] < speed["tokens_per_s"] and 0 < speed["share_of_matmul_peak"] < 1
    return outputs(folder)


def test_stage_leaves_its_outputs_and_nothing_else(unbroken):
    checkpoint = (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    )
    assert sorted(unbroken) == sorted(
        ["metrics/curves/train.csv", "metrics/curves/val.csv", "metrics/split.json", "metrics/train.json"]
        + ["models/backbones.yaml", "metrics/preferred/README.md"]  # were there before
        + [f"models/sft/{which}/{name}" for which in ("best", "last") for name in checkpoint]
    )
    assert len(unbroken["metrics/curves/train.csv"].splitlines()) == 1 + STEPS


def wait(happened: Callable[[], object], at_most: float) -> None:
    deadline = time.monotonic() + at_most
    while time.monotonic() < deadline and not happened():
        time.sleep(0.0005)


def state_file(folder: Path) -> tuple[int, int] | None:
    """What changes whenever a state is saved."""
    with suppress(FileNotFoundError):
        state = (folder / "models/resume/sft/state.safetensors").stat()
        return state.st_ino, state.st_mtime_ns
    return None


@pytest.mark.parametrize("least", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_run_killed_at_random_moments_ends_byte_identical(copy, nursery, unbroken, least):
    """So many times kill -9, also in the middle of saving, and some Ctrl-C."""
    seldom = max(1, least // 7)
    rng = random.Random(20260101)
    started = time.monotonic()
    nursery.run(copy)
    whole = time.monotonic() - started
    assert outputs(copy) == unbroken
    clear(copy)
    kills = in_saving = interrupts = lives = 0
    went_on: set[str] = set()
    while kills < least or min(in_saving, interrupts, len(went_on)) < seldom:  # went on after different steps
        lives += 1
        assert lives <= 200, f"{kills} kills, {in_saving} while saving, {interrupts} interrupts, after {went_on}"
        life = nursery.start(copy)
        kind = rng.choice(["any moment", "any moment", "later", "saving", "saving", "interrupt"])
        time.sleep(rng.uniform(0, 0.3) * whole)
        if kind == "saving":
            wait(lambda: list((copy / "models").rglob(".*.part")), at_most=0.5 * whole)
        elif kind == "later":  # however long a start takes here, this life saves something
            before = state_file(copy)
            wait(lambda before=before: state_file(copy) not in {before, None}, at_most=2 * whole)
        life.send(signal.SIGINT if kind == "interrupt" else signal.SIGKILL)
        status = life.wait()
        assert status in {0, 130, -signal.SIGKILL}, life.log
        kills += status == -signal.SIGKILL
        in_saving += status == -signal.SIGKILL and bool(list((copy / "models").rglob(".*.part")))
        interrupts += status == 130
        went_on |= set(re.findall(rf"going on after step (\d+) of {STEPS}", life.log))
        if status == 0:
            assert outputs(copy) == unbroken
        clear(copy)
    tuning = copy / "models/resume/dpo/state.safetensors"  # of a preference tuning that is not finished either
    tuning.parent.mkdir(parents=True, exist_ok=True)
    tuning.write_text("its own")
    nursery.run(copy)
    assert tuning.read_text() == "its own"
    tuning.unlink()
    assert outputs(copy) == unbroken


def interrupt(folder: Path, nursery: Nursery, sent_signal: signal.Signals) -> int:
    """The step after which the last line says that the state was saved."""
    life = nursery.start(folder)
    life.wait_for("step 12: val loss")
    life.send(sent_signal)
    assert life.wait() == 130
    last = life.log.splitlines()[-1]
    found = re.match(rf"train\.py: stopped; state saved after step (\d+) of {STEPS}; ", last)
    assert "`dvc repro`" in last and "`git restore metrics && dvc checkout`" in last
    assert found and 12 <= int(found[1]) < STEPS
    assert not (folder / "models/sft").exists() and (folder / "models/resume/sft/state.safetensors").exists()
    return int(found[1])


@pytest.mark.parametrize("sent_signal", [signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_with_a_line_that_says_how_to_go_on_and_status_130(copy, nursery, sent_signal):
    interrupt(copy, nursery, sent_signal)


def test_interrupted_run_goes_on_after_the_step_that_its_line_names(copy, nursery, unbroken):
    step = interrupt(copy, nursery, signal.SIGINT)
    clear(copy)
    again = nursery.run(copy)
    assert f"going on after step {step} of {STEPS}" in again.log
    assert outputs(copy) == unbroken


def test_interrupt_saves_the_state_even_where_none_is_saved_otherwise(copy, nursery):
    set_params(copy, save_minutes=0)
    life = nursery.start(copy)
    life.wait_for("step 12: val loss")
    assert not (copy / "models/resume/sft/state.safetensors").exists()
    life.send(signal.SIGINT)
    assert life.wait() == 130
    assert (copy / "models/resume/sft/state.safetensors").exists()


def test_a_run_whose_settings_changed_ends_without_results_and_goes_on_once_they_are_put_back(copy, nursery, unbroken):
    before = (copy / "params.yaml").read_text(encoding="utf-8")
    life = nursery.start(copy)
    life.wait_for("step 0: val loss")
    life.send(signal.SIGSTOP)
    set_params(copy, lr="3.0e-2")
    life.send(signal.SIGCONT)
    assert life.wait() == 1
    assert "params.yaml: train.lr: changed" in life.log.splitlines()[-1]
    assert not list((copy / "models").glob("sft/*")) and not (copy / "metrics/train.json").exists()
    (copy / "params.yaml").write_text(before, encoding="utf-8")
    again = nursery.run(copy)
    assert f"going on after step {STEPS} of {STEPS}" in again.log
    assert outputs(copy) == unbroken


def stop_in_the_middle(folder: Path, nursery: Nursery) -> None:
    """Leave a state, and nothing else that a run makes."""
    life = nursery.start(folder)
    life.wait_for("step 12: val loss")
    life.send(signal.SIGKILL)
    assert life.wait() == -signal.SIGKILL
    assert (folder / "models/resume/sft/state.safetensors").exists()
    clear(folder)


@pytest.fixture(scope="module")
def stopped(repository, workplace, nursery) -> Path:
    """A copy with the state of a run of one epoch that was killed: to be copied by each test."""
    folder = Path(shutil.copytree(repository, workplace / "stopped"))
    set_params(folder, epochs=1)
    stop_in_the_middle(folder, nursery)
    return folder


@pytest.fixture(scope="module")
def short(stopped, workplace, nursery) -> dict[str, bytes]:
    """What the same run leaves when nothing disturbs it."""
    return fresh_outputs(stopped, workplace / "short", nursery)


def fresh_outputs(folder: Path, to: Path, nursery: Nursery) -> dict[str, bytes]:
    """What a run leaves in a copy of the folder without the state."""
    fresh = Path(shutil.copytree(folder, to))
    shutil.rmtree(fresh / "models/resume/sft")
    assert "another run" not in nursery.run(fresh).log
    return outputs(fresh)


@pytest.fixture
def old_state(stopped, workplace) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=workplace) as folder:
        yield Path(shutil.copytree(stopped, Path(folder) / "copy"))


@pytest.mark.parametrize(
    ("what", "differs"),
    [
        ("learning rate", "params train differs"),
        ("data", "data/split/train.json differs"),
        ("code", "code differs"),
    ],
)
def test_state_of_another_run_is_refused_in_words_and_training_starts_anew(old_state, nursery, short, what, differs):
    if what == "learning rate":
        set_params(old_state, lr="1.0e-2")
    elif what == "data":
        change(old_state / "data/split/train.json", r'\A([^"]|"(?!id"))*"id": "[^"]*"', '[{"id": "changed"')
    else:
        with (old_state / "src/train.py").open("a", encoding="utf-8") as file:
            file.write("# changed\n")
    expected = short if what == "code" else fresh_outputs(old_state, old_state.parent / "fresh", nursery)
    life = nursery.run(old_state)
    assert f"models/resume/sft holds the state of another run ({differs}); starting from the beginning\n" in life.log
    assert "going on" not in life.log and "step 0: val loss" in life.log
    assert outputs(old_state) == expected


def test_damaged_state_is_refused_in_words_and_training_starts_anew(old_state, nursery, short):
    state = old_state / "models/resume/sft/state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    life = nursery.run(old_state)
    assert re.search(r"models/resume/sft/state\.safetensors is damaged \(.*\); starting from the beginning\n", life.log)
    assert outputs(old_state) == short


def test_adapter_run_is_gone_on_with_and_leaves_an_adapter(copy, nursery, monkeypatch):
    set_params(copy, epochs=1, r=2, dropout=0.2)
    fresh = Path(shutil.copytree(copy, copy.parent / "fresh"))
    stop_in_the_middle(copy, nursery)
    with safe_open(copy / "models/resume/sft/state.safetensors", framework="pt") as file:
        assert all("lora_" in name for name in file.keys() if name != "progress")  # noqa: SIM118
    nursery.run(copy)
    nursery.run(fresh)
    assert outputs(copy) == outputs(fresh)
    assert (copy / "models/sft/best/adapter_model.safetensors").exists()
    assert not (copy / "models/sft/best/model.safetensors").exists()
    monkeypatch.chdir(copy)
    model, _ = load_trained(Path("models/sft/best"), CPU)
    assert model.config.n_embd == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 9}, "train.py: params.yaml: train.lora.r must be at most 8, the size of h.0.attn.c_attn; is 9"),
        (
            {"r": 2, "target_modules": "[c_attn, query]"},
            "train.py: params.yaml: train.lora.target_modules: no layer is called query; there are",
        ),
        ({"max_length": 30}, "records are too long; raise train.max_length"),
        ({"parallel": "ddp"}, "train.parallel is ddp, but torchrun did not start this process; set launch.train"),
        ({"parallel": "fsdp"}, "train.parallel is fsdp, but torchrun did not start this process"),
    ],
)
def test_mistake_in_the_settings_ends_the_stage_with_one_message_and_status_1(copy, nursery, changes, message):
    set_params(copy, **changes)
    life = nursery.start(copy)
    assert life.wait() == 1
    assert message in life.log
    assert "Traceback" not in life.log
    assert not (copy / "models/sft").exists() and not (copy / "models/resume/sft").exists()


def test_device_that_is_missing_is_refused(copy, nursery):
    change(copy / "params.yaml", r"device: cpu", "device: cuda")
    life = nursery.start(copy)
    status = life.wait()
    if status == 0:
        pytest.skip("this machine has CUDA")
    assert "params.yaml: runtime.device is cuda, which this machine lacks; it has cpu" in life.log


@pytest.mark.slow
def test_two_threads_leave_the_same_bytes_every_time_and_after_a_kill(copy, nursery):
    set_params(copy, num_threads=2, micro_batch_size=8, epochs=6, prompt_loss_weight=0.3)
    found = []
    for killed in (False, False, True):
        if killed:
            stop_in_the_middle(copy, nursery)
        nursery.run(copy)
        found.append(outputs(copy))
        clear(copy)
    assert found[0] == found[1] == found[2]


# Many processes


def start_torchrun(folder: Path) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*torchrun, "src/train.py", *PATHS], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def assert_equal_to_rounding(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    for name in ("metrics/curves/train.csv", "metrics/curves/val.csv"):
        rows, wanted = (list(csv.DictReader(StringIO(one[name].decode()))) for one in (found, expected))
        assert len(rows) == len(wanted)
        for row, values in zip(rows, wanted, strict=True):
            assert row.keys() == values.keys()
            for key, value in values.items():
                assert float(row[key]) == pytest.approx(float(value), rel=1e-3 if key == "grad_norm" else 1e-4), key


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_stage_under_torchrun_equals_one_process(copy, unbroken, mode):
    set_params(copy, parallel=mode)
    process = start_torchrun(copy)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    assert log.count("step 0: val loss") == log.count("% of the matmul peak") == 1, "only one process speaks"
    assert_equal_to_rounding(outputs(copy), unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_interrupted_torchrun_is_gone_on_with_by_one_process(copy, nursery, unbroken, mode):
    set_params(copy, parallel=mode)
    process = start_torchrun(copy)
    assert process.stdout
    for line in process.stdout:
        if "step 12: val loss" in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            break
    log, _ = process.communicate()
    assert process.returncode != 0
    found = re.search(rf"state saved after step (\d+) of {STEPS}; `dvc repro` goes on from there", log)
    assert found, log
    set_params(copy, parallel="none")
    life = nursery.run(copy)
    assert f"going on after step {found[1]} of {STEPS}" in life.log
    assert_equal_to_rounding(outputs(copy), unbroken)


@pytest.mark.slow
def test_torchrun_without_a_mode_is_refused(copy):
    process = start_torchrun(copy)
    log, _ = process.communicate()
    assert process.returncode != 0
    assert "train.py: params.yaml: train.parallel: none does not work under torchrun" in log
    assert 'File "' not in log.split("train.py: params.yaml")[0]


# Under DVC


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_dvc_repro_goes_on_after_everything_was_killed(copy, unbroken, signal_):
    """DVC itself dies too, and it removes the stage's outputs before it starts it again."""
    command = [sys.executable, "-m", "dvc", "repro", "train"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if "step 12: val loss" in line:
                os.killpg(process.pid, signal_)
                break
        process.stdout.read()
    assert process.returncode != 0
    assert (copy / "models/resume/sft/state.safetensors").exists()
    again = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(rf"going on after step \d+ of {STEPS}", again.stdout)
    found = outputs(copy)
    assert {name: found[name] for name in unbroken} == unbroken
    third = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert "step 0" not in third.stdout and third.returncode == 0
    # DVC has recorded what it made, so a run by force goes on from nothing.
    assert (copy / "models/resume/sft/state.safetensors").exists()
    forced = subprocess.run([*command, "--force"], cwd=copy, env=environment, capture_output=True, text=True)
    assert "step 0: val loss" in forced.stdout and forced.returncode == 0
    found = outputs(copy)
    assert {name: found[name] for name in unbroken} == unbroken
