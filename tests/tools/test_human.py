import pytest
from evaluation.answers import answer

from instruct.core.errors import DataError
from instruct.evaluation.human import read_rows, write_rows
from instruct.tools.human import describe_row, fill, make_blank

ANSWERS = {system: [answer(f"r{i}", f"{system} {i}") for i in range(3)] for system in ("base", "sft")}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "human.csv"
    make_blank(ANSWERS, count=3, seed=1, path=file)
    return file


def test_a_file_without_answers_is_told(path):
    write_rows(path, [])
    with pytest.raises(DataError, match="instruct human blank"):
        fill(typed(), print, path)


def typed(*lines):
    rest = iter(lines)

    def ask(prompt):
        try:
            line = next(rest)
        except StopIteration:
            raise EOFError from None
        if line == "^C":
            raise KeyboardInterrupt
        return line

    return ask


def scores(path):
    return [row["score"] for row in read_rows(path)]


def test_scores_go_into_the_file_one_by_one(path):
    shown = []
    left = fill(typed("80", "", "7.5", "q"), shown.append, path)
    assert scores(path) == ["80", "", "7.5", "", "", ""]
    assert left == 4
    assert not any("sft" in line.split("response:")[0] for line in shown)  # blind


@pytest.mark.parametrize("end", ["^C", "q"])
def test_what_was_typed_before_the_end_is_kept(path, end):
    fill(typed("80", end), lambda line: None, path)
    assert scores(path)[0] == "80"


def test_a_slip_is_asked_again_and_b_goes_back(path):
    shown = []
    fill(typed("eighty", "101", "80", "b", "85"), shown.append, path)
    assert scores(path)[0] == "85"
    assert sum("is not a number from 0 to 100" in line for line in shown) == 2


def test_it_goes_on_where_it_was_left(path):
    fill(typed("10", "20"), lambda line: None, path)
    fill(typed("30"), lambda line: None, path)
    assert scores(path)[:3] == ["10", "20", "30"]
    assert fill(typed(*["1"] * 9), lambda line: None, path) == 0
    assert fill(typed(), lambda line: None, path) == 0


def test_a_second_blank_keeps_the_scores(path):
    fill(typed("10"), lambda line: None, path)
    waiting, scored = make_blank(ANSWERS, count=3, seed=2, path=path)
    assert (waiting, scored) == (5, 1)


def test_control_characters_of_an_answer_do_not_reach_the_terminal():
    row = {"instruction": "i", "input": "", "reference": "r", "response": "\x1b[2Jx\ny"}
    shown = describe_row(row, 1, 1)
    assert "\x1b" not in shown
    assert "\\x1b[2Jx\n    y" in shown
    assert "(empty)" in describe_row({**row, "response": ""}, 1, 1)
