"""What people prefer and would have said, as it is kept; `test_page.py` shows the same in a browser."""

import json
from dataclasses import replace

import pytest

from instruct.core.records import Example, write_records
from instruct.serving.feedback import Answered, Feedback, MineRequest, PreferenceRequest
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
