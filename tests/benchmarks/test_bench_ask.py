"""What bench_ask makes of its starts, without a model."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bench():
    """The script, which finds its neighbours where a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("bench_ask")


def test_a_start_is_timed_until_its_first_character_and_its_end(bench, tmp_path):
    code = "import os; print('P', end='', flush=True); print('aris', os.environ['XDG_CACHE_HOME'])"
    told = bench.one_start([sys.executable, "-c", code], str(tmp_path))
    assert told["answer"] == f"Paris {tmp_path}\n"
    assert 0 < told["first_s"] <= told["end_s"]


@pytest.mark.parametrize("code", ["pass", "print('P'); raise SystemExit(1)"])
def test_a_start_without_an_answer_is_not_timed(bench, tmp_path, code):
    with pytest.raises(AssertionError, match="exit status"):
        bench.one_start([sys.executable, "-c", code], str(tmp_path))


def test_the_table_has_median_and_spread_of_both_kinds(bench, capsys):
    times = {"first": [(3.0, 4.0), (3.5, 4.5), (5.0, 6.0)], "again": [(2.0, 3.0), (2.25, 3.25), (2.5, 3.5)]}
    rounds = [{"kind": kind, "first_s": first, "end_s": end} for kind, found in times.items() for first, end in found]
    summary = bench.summarise(rounds)
    assert summary["starts"]["again"] == {"first_s": [2.25, 2.0, 2.5], "end_s": [3.25, 3.0, 3.5]}
    bench.print_table(summary)
    out = capsys.readouterr().out
    assert "| first | 3.50 | 3.00 to 5.00 | 4.50 | 4.00 to 6.00 |" in out and "torch uses" in out
