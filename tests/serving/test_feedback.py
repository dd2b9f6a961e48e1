"""What people prefer and would have said, as it is kept; `test_page.py` shows the same in a browser."""

import fcntl
import json
import os
import threading
from dataclasses import replace

import httpx
import pytest
from pydantic import ValidationError

from instruct.core.records import Example, write_records
from instruct.serving.feedback import Answered, Feedback, MineRequest, PreferenceRequest, append
from instruct.serving.policy import Policy, Rule
from instruct.serving.problems import Problem


@pytest.fixture
def feedback(tmp_path, systems):
    for part in ("val", "test"):
        record = Example(id=part, instruction=f"Name the largest {part} of all.", input="", output="It is big.")
        write_records(tmp_path / f"data/split/{part}.json", [record, replace(record, id="x", instruction="Sing.")])
    return Feedback(systems, 90.0, tmp_path)


def preferred(instruction, *rejected, best="Good."):
    answers = [Answered(system=system, text=text, finish_reason="stop") for system, text in rejected]
    chosen = Answered(system="sft", text=best, finish_reason="stop")
    return PreferenceRequest(
        instruction=instruction, chosen=chosen, rejected=answers, seed=1, temperature=0.0, max_tokens=8
    )


@pytest.mark.parametrize("part", ["val", "test"])
def test_nothing_is_kept_for_a_prompt_that_resembles_a_held_out_one(feedback, tmp_path, part):
    asked = f"name the  largest {part} of all"
    for keep in (
        lambda: feedback.prefer(preferred(asked, ("base", "Bad.")), None),
        lambda: feedback.keep(MineRequest(instruction=asked, output="Mine."), None),
    ):
        with pytest.raises(Problem, match=f"record {part} of data/split/{part}.json") as refused:
            keep()
        assert refused.value.code == "held_out"
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["split"]


def test_nothing_is_kept_where_the_held_out_records_cannot_be_read(feedback, tmp_path):
    (tmp_path / "data/split/val.json").unlink()
    with pytest.raises(Problem) as refused:
        feedback.keep(MineRequest(instruction="Tell me about snow.", output="Mine."), None)
    assert refused.value.code == "no_split" and not (tmp_path / "data/mine.jsonl").exists()


def test_a_line_for_each_other_answer_says_who_gave_which(feedback, tmp_path):
    told = feedback.prefer(
        preferred("Tell me about snow.", ("base", "Bad."), ("dpo", "Good."), ("dpo", "Worse.")), None
    )
    lines = [json.loads(line) for line in (tmp_path / told["file"]).read_text().splitlines()]
    sides = [[(one[f"{side}_system"], one[f"{side}_digest"], one[side]) for side in ("chosen", "rejected")]
             for one in lines]  # fmt: skip
    best = ("sft", "digest-of-sft", "Good.")
    assert sides == [[best, ("base", "digest-of-base", "Bad.")], [best, ("dpo", "digest-of-dpo", "Worse.")]]
    assert told["lines"] == 2
    with pytest.raises(Problem, match="the answers are the same"):
        feedback.prefer(preferred("Tell me about snow.", ("base", "Good.")), None)


@pytest.mark.parametrize("reason", ["length", "content_filter", ""])
def test_an_answer_that_did_not_end_by_itself_is_in_no_pair(reason):
    with pytest.raises(ValidationError) as refused:
        Answered(system="sft", text="Go", finish_reason=reason)
    assert refused.value.errors()[0]["loc"] == ("finish_reason",)


FILTER = Policy(
    rules=(Rule(name="word", action="block", pattern="zig"), Rule(name="code", action="mask", pattern=r"k1\s?zag"),
           Rule(name="told", action="flag", pattern="zog"))
)  # fmt: skip


@pytest.mark.parametrize("removed", ["a zig", "k1zag", "K1 ZAG"])
def test_what_the_policy_blocks_or_masks_is_not_kept(feedback, tmp_path, removed):
    harmless = {"instruction": "Tell me about a zog.", "input": "On a hill", "output": "It zogs."}
    for field in harmless:
        with pytest.raises(Problem) as refused:
            feedback.keep(MineRequest(**{**harmless, field: f"Here is {removed}"}), FILTER)
        assert refused.value.code == "policy_blocked" and refused.value.param in (field, "prompt")
    for request in (
        preferred(f"Say {removed}", ("base", "Bad.")),
        preferred("Tell me.", ("base", "Bad."), ("dpo", removed)),
        preferred("Tell me.", ("base", "Bad."), best=removed),
    ):
        with pytest.raises(Problem) as refused:
            feedback.prefer(request, FILTER)
        assert refused.value.code == "policy_blocked"
    with pytest.raises(Problem):
        feedback.keep(MineRequest(**{**harmless, "instruction": "Is it k1", "input": "zag?"}), FILTER)
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["split"]
    feedback.keep(MineRequest(**harmless), FILTER)
    assert json.loads((tmp_path / "data/mine.jsonl").read_text()) == harmless


def test_the_routes_of_the_page_ask_the_policy_of_the_server(feedback, serving, tmp_path):
    rules = tmp_path / "policy.yaml"
    rules.write_text("[{name: word, action: block, pattern: zig}]")
    url = serving(policy=str(rules)).url
    chosen, rejected = ({"system": one, "text": one, "finish_reason": "stop"} for one in ("sft", "base"))
    drawn = {"seed": 1, "temperature": 0.0, "max_tokens": 8}
    for route, body in (
        ("mine", {"instruction": "Tell me.", "output": "A zig."}),
        ("preferences", {"instruction": "A zig?", "chosen": chosen, "rejected": [rejected], **drawn}),
    ):
        got = httpx.post(f"{url}/{route}", json=body, timeout=60)
        assert (got.status_code, got.json()["error"]["code"]) == (400, "policy_blocked")
    assert [one.name for one in (tmp_path / "data").iterdir()] == ["split"]


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
