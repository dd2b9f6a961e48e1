import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.near_duplicate_records import make_records

ROOT = Path(__file__).parents[2]


def test_perturbed_records_are_the_same_every_time_and_a_quarter_have_copies():
    real = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
    made = list(make_records(real, 2000, seed=5))
    assert made == list(make_records(real, 2000, seed=5))
    assert len(made) == 2000
    families = Counter(original for original, _ in made)
    assert 0.18 < sum(size > 1 for size in families.values()) / len(families) < 0.32
    assert max(families.values()) <= 4


@pytest.mark.slow
def test_results_have_the_shape_of_the_other_benchmarks(tmp_path):
    script = ROOT / "tests" / "benchmarks" / "bench_data.py"
    options = ["--sizes", "200,400", "--only", "ours-minhash,stage,chapter", "--json", tmp_path / "results.json"]
    done = subprocess.run([sys.executable, script, *options], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert set(results) == {"sizes", "growth"}
    assert list(results["sizes"]) == ["200", "400"]
    for result in results["sizes"].values():
        assert set(result) == {"machine", "contestants", "ratios", "withheld", "skipped", "found"}
        assert set(result["contestants"]) == {"ours", "ours-minhash", "stage"}
        assert set(result["skipped"]) == {"ours-exact", "rensa", "chapter"}
        for values in result["contestants"].values():
            assert set(values) == {"median_s", "min_s", "max_s", "records_per_s", "peak_rss_mb"}
        for found in result["found"].values():
            assert found["recall"] >= 0.95 and found["sampled_recall"] >= 0.95 and found["precision"] >= 0.98
    assert set(results["growth"]) == {"ours", "ours-minhash", "stage"}
