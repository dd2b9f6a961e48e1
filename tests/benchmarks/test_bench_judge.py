import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bench_judge.py")


@pytest.mark.slow
def test_the_benchmark_runs_in_small_and_writes_what_it_measured(tmp_path):
    small = {"latency": "0.005", "slots": "4", "seconds": "0.1", "repeats": "1", "memory": "300"}
    options = [part for name, value in small.items() for part in (f"--{name}", value)]
    options += ["--workers", "1", "4", "--warm", "110", "500", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out.json").read_text())
    assert set(summary["contestants"]) == {"ours", "requests", "one-at-a-time"} and summary["skipped"] == {}
    assert set(summary["ratios"]) | set(summary["withheld"]) == {"requests", "one-at-a-time"}
    assert [row["workers"] for row in summary["throughput"]] == [1, 4]
    assert [row["allowed_per_s"] for row in summary["throughput"]] == [200, 800]
    assert all(0 < row["share"] <= 1.05 for row in summary["throughput"])
    assert set(summary["warm_cache_s"]) == {"110", "500"}
    assert summary["peak_rss_mb"]["300"] > 0 and summary["overhead"]["cpu_ms"] > 0
    assert "| workers |" in done.stdout and "warm cache, 110 verdicts" in done.stdout
