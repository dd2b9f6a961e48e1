"""What tests there are depends on neither clock nor hash seed: workers of `make test` must agree, on every machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def collect(seed):
    """Start another Python that lists all tests, under another hash seed."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "-p", "no:randomly"]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTEST_ADDOPTS": ""}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_same_tests_in_the_same_order_a_second_later_under_another_hash_seed():
    first = collect(1)
    time.sleep(1.1)
    second = collect(2)
    lists = [[line for line in one.communicate()[0].splitlines() if "::" in line] for one in (first, second)]
    assert first.returncode == second.returncode == 0
    assert len(lists[0]) > 1000
    assert [pair for pair in zip(*lists, strict=True) if len(set(pair)) == 2] == []
