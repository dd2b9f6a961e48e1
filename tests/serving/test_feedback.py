"""What people prefer and would have said, as it is kept; `test_page.py` shows the same in a browser."""

import fcntl
import json
import os
import threading
from dataclasses import replace

import pytest

from instruct.core.records import Example, write_records
from instruct.serving.feedback import Answered, Feedback, MineRequest, PreferenceRequest, append
from instruct.serving.problems import Problem


@pytest.fixture
def feedback(tmp_path, systems):
    for part in ("val", "test"):
        record = Example(id=part, instruction=f"Name the largest {part} of all.", input="", output="It is big.")
        write_records(tmp_path / f"data/split/{part}.json", [record, replace(record, id="x", instruction="Sing.")])
    return Feedback(systems, 90.0, tmp_path)


def preferred(instruction, *rejected):
    answers = [Answered(system=system, text=text) for system, text in rejected]
    best = Answered(system="sft", text="Good.")
    return PreferenceRequest(
        instruction=instruction, chosen=best, rejected=answers, seed=1, temperature=0.0, max_tokens=8
    )


@pytest.mark.parametrize("part", ["val", "test"])
def test_nothing_is_kept_for_a_prompt_that_resembles_a_held_out_one(feedback, tmp_path, part):
    asked = f"name the  largest {part} of all"
    for keep in (
        lambda: feedback.prefer(preferred(asked, ("base", "Bad."))),
        lambda: feedback.keep(MineRequest(instruction=asked, output="Mine.")),
    ):
        with pytest.raises(Problem, match=f"record {part} of data/split/{part}.json") as refused:
            keep()
        assert refused.value.code == "held_out"
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["split"]


def test_nothing_is_kept_where_the_held_out_records_cannot_be_read(feedback, tmp_path):
    (tmp_path / "data/split/val.json").unlink()
    with pytest.raises(Problem) as refused:
        feedback.keep(MineRequest(instruction="Tell me about snow.", output="Mine."))
    assert refused.value.code == "no_split" and not (tmp_path / "data/mine.jsonl").exists()


def test_a_line_for_each_other_answer_says_who_gave_which(feedback, tmp_path):
    told = feedback.prefer(preferred("Tell me about snow.", ("base", "Bad."), ("dpo", "Good."), ("dpo", "Worse.")))
    lines = [json.loads(line) for line in (tmp_path / told["file"]).read_text().splitlines()]
    sides = [[(one[f"{side}_system"], one[f"{side}_digest"], one[side]) for side in ("chosen", "rejected")]
             for one in lines]  # fmt: skip
    best = ("sft", "digest-of-sft", "Good.")
    assert sides == [[best, ("base", "digest-of-base", "Bad.")], [best, ("dpo", "digest-of-dpo", "Worse.")]]
    assert told["lines"] == 2
    with pytest.raises(Problem, match="the answers are the same"):
        feedback.prefer(preferred("Tell me about snow.", ("base", "Good.")))


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "read-only"])
def test_what_dvc_keeps_of_a_file_is_not_appended_to(tmp_path, linked):
    kept, path = tmp_path / "kept", tmp_path / "mine.jsonl"
    path.write_bytes(b"old")
    if linked:
        os.link(path, kept)
    path.chmod(0o444)
    append(path, b"new\n")
    append(path, b"newer\n")
    assert path.read_bytes() == b"old\nnew\nnewer\n" and os.access(path, os.W_OK) and path.stat().st_nlink == 1
    assert path.stat().st_mode & 0o200
    assert [one.name for one in sorted(tmp_path.iterdir())] == (["kept"] if linked else []) + ["mine.jsonl"]
    assert not linked or (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"old", 0o444)


def test_a_file_that_is_replaced_while_we_wait_for_its_lock_gets_the_line(tmp_path, monkeypatch):
    path, waits = tmp_path / "mine.jsonl", threading.Event()
    path.write_bytes(b"old\n")
    monkeypatch.setattr("instruct.serving.feedback.time.sleep", lambda _: waits.set() or threading.Event().wait(0.01))
    writer = threading.Thread(target=append, args=(path, b"new\n"))
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer.start()
        assert waits.wait(60)
        (tmp_path / "part").write_bytes(b"old\nother\n")
        (tmp_path / "part").replace(path)
    writer.join(60)
    assert path.read_bytes() == b"old\nother\nnew\n"
