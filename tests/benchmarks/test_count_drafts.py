"""The count of drafts: what a hand counts on short texts."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from results.sample import answer

from instruct.core.records import write_records


@pytest.fixture(scope="module")
def drafts():
    """The script, which finds its neighbours where a script does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return importlib.import_module("count_drafts")


@pytest.mark.parametrize(
    ("own", "answer", "spare", "counted"),
    [
        ([], [7], 3, (0, 0)),  # the first token comes with the prompt
        ([], [1, 2, 3, 4], 3, (3, 3)),  # nothing has occurred before
        ([1, 2, 3, 4], [1, 2, 3, 4], 3, (3, 1)),  # the prompt again
        ([1, 2, 3, 4], [1, 2, 3, 4], 1, (3, 2)),
        ([1, 2, 3, 4], [1, 2, 3, 4], 0, (3, 3)),
        ([1, 2, 9], [1, 2, 3, 4], 3, (3, 2)),  # 2 is drafted right and gives 3; nothing follows 3
        ([], [5] * 6, 3, (5, 2)),  # a repetition is known after its second token
    ],
)
def test_each_step_gives_one_token_and_those_drafted_right(drafts, own, answer, spare, counted):
    assert drafts.count(own, answer, spare) == counted


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (None, "answers.json: there is no such file"),
        ([], "answers.json: holds no answers"),
        ([answer("a", "b")], "models/sft/best/config.json: there is no such file; run"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, answers, words):
    if answers is not None:
        write_records(tmp_path / "answers.json", answers)
    command = [sys.executable, Path(__file__).with_name("count_drafts.py"), "answers.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("count_drafts.py: ") and words in done.stderr
