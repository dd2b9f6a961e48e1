"""What bench_serve makes of its rounds, without a server."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bench():
    """The script, which finds its neighbours where a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("bench_serve")


def rounds(**rates):
    return [
        {"name": name, "clients": clients, "round": i, "tokens_per_s": rate * clients, "first_token_s": [0.1 * (i + 1)]}
        for clients in (1, 8)
        for name, found in rates.items()
        for i, rate in enumerate(found)
    ]


def test_ours_is_compared_only_where_no_round_could_turn_the_order(bench, capsys):
    summary = bench.summarise(rounds(slow=(10, 11, 12), ours=(30, 33, 36), near=(29, 31, 40)))
    assert list(summary["clients"]) == ["1", "8"]
    for clients, found in summary["clients"].items():
        assert list(found) == ["ours", "near", "slow"]
        assert found["slow"]["ratio"] == pytest.approx(3.0) and "withheld" not in found["slow"]
        assert "ratio" not in found["near"] and "overlap" in found["near"]["withheld"]
        assert found["ours"]["tokens_per_s"] == 33 * int(clients) and found["ours"]["first_token_s"] == 0.2
        assert found["ours"]["first_token_95_s"] == pytest.approx(0.3)
    bench.print_table(summary)
    out = capsys.readouterr().out
    assert out.count("3.00 x") == out.count("unclear") == 2 and "torch uses" in out


def test_without_ours_nothing_is_compared(bench):
    found = bench.summarise(rounds(slow=(10, 11)))["clients"]["1"]["slow"]
    assert "ratio" not in found and "withheld" not in found
