import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from instruct.core.beginning import stopped
from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.stage import run_stage

SRC = Path(__file__).parents[2] / "src"
SCRIPTS = sorted(path.name for path in SRC.glob("*.py"))
SCRIPT = """
import sys
sys.path.insert(0, {src!r})
from pathlib import Path
from instruct.core.errors import DataError, JudgeError, ParamsError
from instruct.core.stage import run_stage

def main(data: Path, out: Path) -> None:
    assert isinstance(data, Path)
    {body}

run_stage(main, writes=("out",))
"""


def run(tmp_path, body, *arguments):
    script = tmp_path / "work.py"
    script.write_text(SCRIPT.format(src=str(SRC), body=body))
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )


def test_paths_arrive_in_order_and_success_is_status_0(tmp_path):
    done = run(tmp_path, "print(data.name, out.name)", "a/first", "b/second")
    assert (done.returncode, done.stdout, done.stderr) == (0, "first second\n", "")


@pytest.mark.parametrize("kind", ["ParamsError", "DataError", "JudgeError"])
def test_mistake_of_the_user_is_its_message_and_status_1(tmp_path, kind):
    done = run(tmp_path, f"raise {kind}('x.json[3]: é is wrong; mend it')", "a", "b")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "work.py: x.json[3]: é is wrong; mend it\n"


def test_bug_keeps_its_traceback(tmp_path):
    done = run(tmp_path, "{}['lost']", "a", "b")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "KeyError: 'lost'" in done.stderr


def test_ctrl_c_is_one_line_and_status_130(tmp_path):
    done = run(tmp_path, "raise KeyboardInterrupt", "a", "b")
    assert (done.returncode, done.stdout) == (130, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("work.py: stopped; ")
    assert "`git restore metrics && dvc checkout`" in line


@pytest.mark.parametrize("arguments", [(), ("a",), ("a", "b", "c")])
def test_wrong_number_of_paths_is_the_usage_and_status_2(tmp_path, arguments):
    done = run(tmp_path, "print('ran')", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "usage: python src/work.py DATA OUT\n")


@pytest.mark.parametrize(("error", "heard"), [(ParamsError, ["0"]), (DataError, ["0"]), (CheckpointError, ["0", "1"])])
def test_mistake_that_every_process_finds_is_said_once(monkeypatch, capsys, error, heard):
    def main() -> None:
        raise error("what, where, remedy")

    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setattr("sys.argv", ["src/train.py"])
        with pytest.raises(SystemExit) as end:
            run_stage(main)
        assert end.value.code == 1
        if "train.py: what, where, remedy" in capsys.readouterr().err:
            said.append(rank)
    assert said == heard


def test_stage_says_first_what_it_does_and_where_its_results_will_be(tmp_path):
    script = '"""Stage 7 · work: one thing → another.\n"""' + SCRIPT.format(src=str(SRC), body="pass")
    (tmp_path / "work.py").write_text(script)
    done = subprocess.run([sys.executable, tmp_path / "work.py", "a", "b"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "work: one thing → another (b)\n")


def test_stage_can_say_what_it_does_in_any_locale(tmp_path):
    script = '"""Stage 7 · work: one thing → another.\n"""' + SCRIPT.format(src=str(SRC), body="pass")
    (tmp_path / "work.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, tmp_path / "work.py", "a", "b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "work: one thing ? another (b)\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated_stage_and_closed_terminal_end_as_ctrl_c_does(tmp_path, number):
    done = run(tmp_path, f"import os; os.kill(os.getpid(), {int(number)}); import time; time.sleep(30)", "a", "b")
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1)
    assert done.stderr.startswith("work.py: stopped; ")


def test_closed_terminal_does_not_end_what_nohup_started(tmp_path):
    body = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('went on')"
    (tmp_path / "work.py").write_text(SCRIPT.format(src=str(SRC), body=body))
    done = subprocess.run(["nohup", sys.executable, "work.py", "a", "b"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "went on\n")


@pytest.mark.parametrize(
    "body",
    [
        "raise OSError(28, 'No space left on device', 'b.partial')",
        "open('/dev/full', 'w').write('x' * 99999)",
        "raise OSError(122, 'Disk quota exceeded')",
        "raise OSError(5, 'Input/output error', str(data))",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); [open('/dev/null') for _ in range(9)]",
        "raise MemoryError",
        "b'x' * 2**60",
        'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried to allocate 9 bytes")',
    ],
)
def test_full_disk_and_full_memory_are_one_line(tmp_path, body):
    done = run(tmp_path, body, "a", "b")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.match(r"work\.py: .+; .+", line)


@pytest.mark.parametrize("error", ["OSError(2, 'No such file', 'x')", "RuntimeError('shapes differ')", "OSError('?')"])
def test_what_no_machine_lacks_is_a_bug_and_keeps_its_traceback(tmp_path, error):
    done = run(tmp_path, f"raise {error}", "a", "b")
    assert done.returncode == 1 and done.stderr.startswith("Traceback")


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_still_imports_is_one_line(tmp_path, script):
    """Packages that the scripts import, the first of all too, are replaced by some whose import is interrupted."""
    for name in ("logging", "dataclasses", "ruamel", "yaml", "torch", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, SRC / script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script}: stopped; ")


# A stage and the DVC that runs it


@pytest.fixture
def pipeline(tmp_path, hermetic):
    """A DVC repository with one stage, which tells its process and then waits until the file `go` is there."""
    (tmp_path / "dvc.yaml").write_text(f"stages: {{work: {{cmd: {sys.executable} work.py a b, deps: [a], outs: [b]}}}}")
    (tmp_path / "a").touch()
    body = """
    import os, time
    Path(f"pid-{os.getpid()}").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    out.write_text(data.read_text())
"""
    (tmp_path / "work.py").write_text(SCRIPT.format(src=str(SRC), body=body))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    begun = []

    def start(*command):
        with (tmp_path / "log").open("a") as log:
            begun.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True))
        return begun[-1]

    start.folder = tmp_path
    yield start
    for process in begun:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(happened, seconds=60):
    until = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def stages(folder):
    return {int(path.name.removeprefix("pid-")) for path in folder.glob("pid-*")}


@pytest.mark.parametrize("launch", ["", "sh launch.sh "], ids=["by the shell", "by a launcher"])
def test_stage_ends_when_dvc_alone_is_killed(pipeline, launch):
    """Between DVC and the stage there may be a process that lives on, as torchrun does."""
    (pipeline.folder / "launch.sh").write_text('"$@"\ntrue\n')
    text = (pipeline.folder / "dvc.yaml").read_text()
    (pipeline.folder / "dvc.yaml").write_text(text.replace("cmd: ", f"cmd: {launch}"))
    dvc = pipeline("dvc", "repro")
    (stage,) = wait_for(lambda: stages(pipeline.folder))
    os.kill(dvc.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(stage))
    assert not (pipeline.folder / "b").exists()


def test_stage_started_by_hand_survives_its_shell(pipeline):
    shell = pipeline("sh", "-c", f"{sys.executable} work.py a b; true")
    (stage,) = wait_for(lambda: stages(pipeline.folder))
    os.kill(shell.pid, signal.SIGKILL)
    time.sleep(1)
    assert psutil.pid_exists(stage)
    (pipeline.folder / "go").touch()
    wait_for((pipeline.folder / "b").exists)


def test_second_run_waits_until_the_first_no_longer_writes(pipeline):
    first = pipeline(sys.executable, "work.py", "a", "b")
    wait_for(lambda: stages(pipeline.folder))
    second = pipeline(sys.executable, "work.py", "a", "b")
    wait_for(lambda: "b: another process is writing it" in (pipeline.folder / "log").read_text())
    assert stages(pipeline.folder) == {first.pid}
    (pipeline.folder / "go").touch()
    assert (first.wait(), second.wait()) == (0, 0)
    assert stages(pipeline.folder) == {first.pid, second.pid}
    assert not list((pipeline.folder / ".dvc/tmp").glob("instruct-*"))


def test_second_run_is_refused_in_one_line_where_the_first_does_not_end(pipeline, monkeypatch, capsys):
    pipeline(sys.executable, "work.py", "a", "b")
    wait_for(lambda: stages(pipeline.folder))
    monkeypatch.chdir(pipeline.folder)
    monkeypatch.setattr("instruct.core.stage.WAIT_S", 0.2)
    monkeypatch.setattr("sys.argv", ["work.py", "a", "b"])

    def main(data: Path, out: Path) -> None:
        raise AssertionError("it began")

    with pytest.raises(SystemExit) as end:
        run_stage(main, writes=("out",))
    assert end.value.code == 1
    assert re.match(r"work\.py: b: another process .+; .+", capsys.readouterr().err.splitlines()[-1])


def test_runs_that_write_other_files_do_not_wait_for_each_other(pipeline):
    pipeline(sys.executable, "work.py", "a", "b")
    pipeline(sys.executable, "work.py", "a", "c")
    wait_for(lambda: len(stages(pipeline.folder)) == 2)


def test_killed_run_leaves_no_lock(pipeline):
    first = pipeline(sys.executable, "work.py", "a", "b")
    wait_for(lambda: stages(pipeline.folder))
    first.kill()
    first.wait()
    (pipeline.folder / "go").touch()
    assert pipeline(sys.executable, "work.py", "a", "b").wait() == 0
    assert "waiting" not in (pipeline.folder / "log").read_text()


def test_way_back_is_said_once_whoever_says_it():
    for said in ("", "state saved", "state saved; `git restore metrics && dvc checkout` goes back"):
        assert stopped("work.py", said).count("`git restore metrics && dvc checkout`") == 1
