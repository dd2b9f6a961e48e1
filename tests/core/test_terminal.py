import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\r\u202e"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(SRC), **environment},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done


def test_nothing_that_is_printed_logged_or_refused_steers_the_terminal():
    done = run(
        "import logging, sys\n"
        "from instruct.core.terminal import guard_output, print_error\n"
        "guard_output()\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)\n"
        f"text = {HOSTILE!r}\n"
        "print('one', text, end='\\n\\ttwo\\n')\n"
        "logging.info('three %s', text)\n"
        "print_error('four ' + text)\n"
    )
    shown = "\\x1b]0;title\\x07\\x1b[31mred\\x9b2J\\r\\u202e"
    assert done.stdout == f"one {shown}\n\ttwo\nthree {shown}\n"
    assert done.stderr == f"four {shown}\n"


@pytest.mark.skipif(os.name != "posix", reason="a shell closes it")
def test_a_command_needs_no_open_output():
    code = "import sys; sys.argv[1:] = ['ask', ' ']\nfrom instruct.cli import run; run()"
    script = 'exec "$0" -c "$1" >&-'
    command = ["sh", "-c", script, sys.executable, code]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "question" in done.stderr


def test_help_is_text():
    done = run("import sys; sys.argv[1:] = ['--help']\nfrom instruct.cli import run; run()")
    assert done.stdout.lstrip().startswith("Usage: ")


def test_a_hostile_name_in_a_table_reaches_no_command_s_output(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/backbones.yaml").write_text('"\\e[31mred": 1\n')
    command = [sys.executable, "-c", "from instruct.cli import run; run()", "fetch"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr and "\\x1b[31mred" in done.stderr


def test_dvc_keeps_its_site_cache_where_only_the_user_can_write(tmp_path):
    code = (
        "import os\nfrom instruct.core.terminal import make_site_cache_private\n"
        "make_site_cache_private()\nprint(os.environ['DVC_SITE_CACHE_DIR'])"
    )
    folder = Path(run(code, XDG_CACHE_HOME=str(tmp_path), HOME=str(tmp_path)).stdout.strip())
    assert tmp_path in folder.parents
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert run(code, DVC_SITE_CACHE_DIR="/else/where").stdout.strip() == "/else/where"
