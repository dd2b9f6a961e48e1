import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.harness import covered, why_no_chapter

ROOT = Path(__file__).parents[2]
FIELDS = {"median_s", "min_s", "max_s", "records_per_s", "tokens_per_s", "peak_rss_mb", "peak_gpu_mb"}


@pytest.fixture
def bench(tmp_path):
    """Runs a benchmark on the tiny shape, and gives what it wrote and what it printed."""

    def run(script, *options):
        path = tmp_path / "results.json"
        command = [sys.executable, ROOT / "tests" / "benchmarks" / script, "--shape", "tiny", "--json", path]
        without_chapter = {name: value for name, value in os.environ.items() if name != "CHAPTER_DIR"}
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, env=without_chapter, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return json.loads(path.read_text(encoding="utf-8")), done

    return run


def check_shape(summary, measured, left_out):
    assert {"machine", "contestants", "ratios", "withheld", "skipped"} <= set(summary)
    assert list(summary["contestants"]) == measured
    for values in summary["contestants"].values():
        assert set(values) == FIELDS
        assert 0 < values["min_s"] <= values["median_s"] <= values["max_s"]
        assert values["peak_rss_mb"] > 50
    # Two runs of a tiny model may well have spreads that overlap.
    assert set(summary["ratios"]) | set(summary["withheld"]) == set(measured) - {"ours"}
    ours = summary["contestants"]["ours"]
    for name, ratio in summary["ratios"].items():
        theirs = summary["contestants"][name]
        assert ratio == pytest.approx(ours["records_per_s"] / theirs["records_per_s"])
        assert ratio == pytest.approx(ours["tokens_per_s"] / theirs["tokens_per_s"])
    assert set(summary["skipped"]) == left_out
    assert all(summary["skipped"].values())


def column(output, name):
    """A column of the printed table, by contestant."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    return {row[0]: row[rows[0].index(name)] for row in rows[2:]}


@pytest.mark.slow
def test_training_contestants_alternate_and_begin_with_the_same_loss(bench):
    names = ["ours", "ours-padded", "transformers"]
    summary, done = bench(
        "bench_train.py", "--steps", "2", "--batch", "2", "--repeats", "2", "--only", "ours-padded,transformers"
    )
    check_shape(summary, names, {"ours-fp32", "trl", "trl-packed", "chapter"})
    rounds = [line.split()[4] for line in done.stderr.splitlines() if line.startswith("round")]
    assert rounds == names * 2
    losses = {float(loss) for loss in column(done.stdout, "first loss").values()}
    assert max(losses) - min(losses) < 1e-3
    assert "of the measured matmul peak" in done.stdout


@pytest.mark.slow
def test_generating_contestants_give_the_same_answers(bench):
    names = ["ours", "transformers-1", "transformers-32"]
    summary, done = bench(
        "bench_generate.py", "--prompts", "3", "--new-tokens", "4", "--repeats", "2",
        "--only", "transformers-1,transformers-32", "--scale", "4,8",
    )  # fmt: skip
    others = {
        "chapter",
        "ours-fp32",
        "transformers-all",
        "ours-bf16",
        "ours-int8",
        "ctranslate2-fp32",
        "ctranslate2-int8",
        "llama.cpp-fp32",
        "llama.cpp-q4_1",
    }
    check_shape(summary, names, others)
    assert set(column(done.stdout, "same as ours").values()) == {"100%"}
    assert "ours, 8 prompts:" in done.stdout


def test_intervals_that_overlap_count_once():
    assert covered([]) == 0
    assert covered([(0, 2), (1, 3), (1.5, 2), (5, 6)]) == 4


def test_chapter_that_cannot_take_part_is_named_with_the_reason(tmp_path):
    assert "CHAPTER_DIR" in why_no_chapter(None, "tiny")
    assert str(tmp_path) in why_no_chapter(tmp_path, "tiny")
    assert "GPT-2" in why_no_chapter(tmp_path, "smollm2")
    code = tmp_path / "ch07" / "01_main-chapter-code"
    code.mkdir(parents=True)
    (code / "gpt_instruction_finetuning.py").touch()
    assert why_no_chapter(tmp_path, "tiny") == ""
