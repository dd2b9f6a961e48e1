import json
import logging
import time

import psutil
import pytest
import torch
from small_training import FLOAT32, example

from instruct.training.throughput import Stopwatch, matmul_peak, peak_memory_mb, write_speed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_report_divides_by_the_seconds_of_training_alone():
    watch = Stopwatch()
    with watch.phase("train", examples=[example([1, 2, 3], [4, 5]), example([1], [2])]):
        time.sleep(0.1)
    with watch.phase("save"):
        time.sleep(0.2)
    watch.flops = 5e9
    trained = watch.seconds["train"]
    assert trained >= 0.1 and watch.seconds["save"] >= 0.2
    report = watch.report(peak=1e11)
    # 6 and 3 tokens with their end tokens, of which 3 and 2 are responses; 5 of 100 billion operations a second
    assert report["records_per_s"] == pytest.approx(2 / trained, abs=0.01)
    assert report["tokens_per_s"] == pytest.approx(9 / trained, abs=0.1)
    assert report["response_tokens_per_s"] == pytest.approx(5 / trained, abs=0.1)
    assert report["share_of_matmul_peak"] == pytest.approx(0.05 / trained, abs=0.001)
    assert report["beside_training"] == {"save": round(watch.seconds["save"] / trained, 3)}
    assert report["seconds"] == {"train": round(trained, 1), "save": round(watch.seconds["save"], 1)}


def test_what_took_longer_than_training_is_no_share_of_it(tmp_path, caplog):
    """Of a few records, saving can take several times the seconds of the steps."""
    watch = Stopwatch()
    watch.seconds |= {"train": 0.5, "save": 1.324}
    with caplog.at_level(logging.INFO):
        write_speed(tmp_path / "speed.json", watch.report(peak=1e11))
    assert json.loads((tmp_path / "speed.json").read_text())["beside_training"] == {"save": 2.648}
    line = caplog.messages[-1]
    assert "save 2.648 s" in line and "%" not in line


def test_report_of_a_run_without_steps_divides_by_no_zero():
    assert Stopwatch().report(peak=1e9)["tokens_per_s"] == 0


def test_peak_memory_is_at_least_what_the_process_holds_now():
    block = torch.ones(50_000_000)  # 200 MB
    now = psutil.Process().memory_info().rss / 1e6
    assert peak_memory_mb() >= now * 0.99
    assert now > block.numel() * 4 / 1e6


def test_peak_of_matrix_products_equals_one_measured_by_hand():
    a = torch.randn(1024, 1024)
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - started))
    assert 0.25 < matmul_peak(FLOAT32) / best < 4  # others may use the machine too
