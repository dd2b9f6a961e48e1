"""tests/gpu/run.py itself, on commands that need neither a GPU nor torch."""

import json
import os
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from gpu import run
from gpu.run import Part, run_command, run_part, write

FOUND = {
    "steps": 4,
    "contestants": {
        "ours": {"min_s": 0.9, "median_s": 1.0, "max_s": 1.1, "peak_gpu_mb": 5.0},
        "trl": {"min_s": 3.0, "median_s": 4.0, "max_s": 5.0, "peak_gpu_mb": 7.0},
    },
    "busy_s": {"ours": 0.8},
    "ratios": {"trl": 4.0},
    "withheld": {},
    "skipped": {"chapter": "not here", "other": "not asked for"},
}


def python(code):
    return [sys.executable, "-c", code]


def a_part(code, seconds=60.0, rows=lambda found: []):
    return Part(name="one", command=python(code), seconds=seconds, rows=rows)


def test_a_command_that_outlasts_its_seconds_is_ended_with_its_children(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    output, why = run_command(python(code), 3.0)
    assert output == b"begun\n" and why
    for _ in range(100):
        if (tmp_path / "pid").exists() and not alive(int((tmp_path / "pid").read_text())):
            return
        time.sleep(0.1)
    pytest.fail("the child still runs")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())


def test_a_part_that_fails_keeps_its_last_lines_and_what_it_found(tmp_path):
    result = tmp_path / "one.json"
    result.write_text(json.dumps(FOUND))
    with (tmp_path / "log").open("wb") as log:
        done = run_part(a_part("raise SystemExit('the reason')", rows=run.training_rows), 60, result, log)
    assert not done["ok"] and "the reason" in done["tail"][0]
    assert len(done["rows"]) == 3
    assert b"the reason" in (tmp_path / "log").read_bytes()


def test_a_part_for_which_no_time_is_left_does_not_start(tmp_path):
    code = f"open({str(tmp_path / 'started')!r}, 'w')"
    with (tmp_path / "log").open("wb") as log:
        assert not run_part(a_part(code), 1.0, tmp_path / "none.json", log)["ok"]
    assert not (tmp_path / "started").exists()


def test_table_has_medians_by_step_busy_share_and_ratios():
    ours, trl, skipped = run.training_rows(FOUND)
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in (ours, trl, skipped)]
    assert cells[0] == ["ours", "250 ms a step", "225 to 275", "80%", "", "5 MB"]
    assert cells[1] == ["trl", "1000 ms a step", "750 to 1250", "", "4.00 x", "7 MB"]
    assert cells[2][0] == "chapter" and "not here" in cells[2][1]


def test_results_of_another_shape_do_not_lose_the_table(tmp_path):
    part = a_part("", rows=run.training_rows)
    assert len(run.try_rows(part, {"contestants": {}})) == 1
    results = {"one": {"ok": True, "seconds": 1.0, "tail": ["last"], "found": {}, "rows": ["| a |"]}}
    write(tmp_path, results, Namespace(shape="tiny", device="cpu"))
    assert "| a |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.slow
def test_all_parts_run_on_a_cpu(tmp_path):
    script = Path(run.__file__).with_name("run.sh")
    command = ["bash", str(script), str(tmp_path), "--device", "cpu", "--shape", "tiny", "--records", "16"]
    output, why = run_command(command, 1200)
    assert not why, output.decode()
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["tests", "train", "stage", "answers", "prefer", "prefer-stage"]
    assert all(result["ok"] for result in results.values())
    for name in ("stage", "prefer-stage"):
        assert results[name]["found"]["runs"][-1]["note"] == "the same bytes as before"
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "log.txt"}
