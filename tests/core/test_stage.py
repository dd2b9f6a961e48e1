import subprocess
import sys
from pathlib import Path

import pytest

from instruct.core.errors import CheckpointError, DataError, ParamsError
from instruct.core.stage import run_stage

SRC = Path(__file__).parents[2] / "src"
SCRIPT = """
import sys
sys.path.insert(0, {src!r})
from pathlib import Path
from instruct.core.errors import DataError, JudgeError, ParamsError
from instruct.core.stage import run_stage

def main(data: Path, out: Path) -> None:
    assert isinstance(data, Path)
    {body}

run_stage(main)
"""


def run(tmp_path, body, *arguments):
    script = tmp_path / "work.py"
    script.write_text(SCRIPT.format(src=str(SRC), body=body))
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=60)


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
