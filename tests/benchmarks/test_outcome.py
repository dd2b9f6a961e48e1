from types import SimpleNamespace

import pytest
import torch
from benchmarks.outcome import could_turn, describe_machine, print_table, summarise

from instruct.core.processor import this_processor


def ran(*seconds):
    return SimpleNamespace(seconds=list(seconds), runs=[{"peak_rss_mb": 100.0, "peak_gpu_mb": 0.0}] * len(seconds))


@pytest.mark.parametrize(
    ("ours", "theirs", "unclear"),
    [
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), False),
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), False),
        ((1.0, 1.1, 2.0), (2.0, 2.1, 2.2), True),  # one run of ours took as long as one of theirs
        ((1.0, 3.0), (2.0, 2.0), True),
        ((1.0,), (1.4,), True),  # one run shows no spread
        ((1.0,), (2.0,), False),
    ],
)
def test_a_ratio_that_the_spread_could_turn_is_withheld(ours, theirs, unclear):
    assert could_turn(ours, theirs) is could_turn(theirs, ours) is unclear
    summary = summarise({"ours": ran(*ours), "other": ran(*theirs)}, {}, records=10, tokens=100)
    assert ("other" in summary["withheld"], "other" in summary["ratios"]) == (unclear, not unclear)


def test_table_shows_ratios_that_are_clear_and_says_why_others_are_not_there(capsys):
    runs = {"ours": ran(1.0, 1.2, 1.1), "slow": ran(4.0, 4.4, 4.2), "near": ran(1.1, 1.3, 1.2)}
    print_table(summarise(runs, {"absent": "not installed"}, records=10, tokens=100), {"own": {"slow": "cell"}})
    out = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("|")}
    assert "3.82 x" in rows["slow"] and "cell" in rows["slow"]
    assert " x " not in rows["near"] and "no ratio for near" in out
    assert "skipped absent: not installed" in out


def test_the_machine_is_described_by_processor_instructions_cards_and_versions():
    machine = summarise({"ours": ran(1.0)}, {}, records=1, tokens=1)["machine"]
    line = describe_machine(machine)
    assert this_processor().name in line and torch.backends.cpu.get_cpu_capability() in line
    assert machine["versions"]["torch"] == torch.__version__ and torch.__version__ in line
    assert len(machine["cards"]) == torch.cuda.device_count()
