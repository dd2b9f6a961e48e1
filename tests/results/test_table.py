import csv

import pytest
from results.sample import make_results, make_table

from instruct.core.errors import DataError
from instruct.core.files import write_csv
from instruct.results.schema import REFERENCE_METRICS as MEASURES
from instruct.results.scores import Difference
from instruct.results.table import count_groups, load_table, table_columns, table_rows

IDS = ("a", "b")
SCORES = {"x": {"base": [1.0, 1.0], "sft": [2.0, None]}} | {
    name: {"base": [5.0] * 2, "sft": [6.0] * 2} for name in MEASURES
}
TABLE = make_table(SCORES, ids=IDS, groups=["g", ""], kinds=["odd", ""])
RESULTS = make_results(TABLE)


@pytest.fixture
def lines(tmp_path):
    write_csv(tmp_path / "scores.csv", table_columns(list(TABLE.scores), RESULTS.names), table_rows(TABLE))
    return (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def fields_as_python_limits_them():
    """Reading a data set allows longer ones, in the whole process."""
    before = csv.field_size_limit(131_072)
    yield
    csv.field_size_limit(before)


def test_what_is_written_is_read_again(lines):
    table = load_table("\n".join(lines), "x", RESULTS)
    assert (table.scores, table.kinds) == (TABLE.scores, TABLE.kinds)


def test_a_chart_can_name_every_column_of_a_measure(lines):
    """Vega reads a dot or a bracket as a path into a value."""
    names = lines[0].split(",")
    assert {f"{name}_{system}" for name in MEASURES for system in ("base", "sft")} <= set(names)
    assert not set("".join(names)) & set(".[]\\\"'")


def test_a_record_without_a_group_is_its_own():
    table = make_table({name: {"base": [1.0] * 3, "sft": [1.0] * 3} for name in ("x", *MEASURES)}, groups=["g", "", ""])
    text = "\n".join([
        ",".join(table_columns(list(table.scores), ("base", "sft"))),
        *(",".join(map(str, row.values())) for row in table_rows(table)),
    ])  # fmt: skip
    groups = load_table(text, "x", make_results(table)).groups
    assert groups["r0"] == "g" and len(set(groups.values())) == 3


@pytest.mark.parametrize(
    ("score", "groups"),
    [("x", 2), ("similarity", 3), ("accuracy", 2), ("closed_similarity", 2), ("open_similarity", 1)],
)
def test_groups_are_counted_over_the_records_that_have_both_scores(score, groups):
    scores = {
        "x": {"base": [1.0, 1.0, 1.0, None, 1.0], "sft": [1.0, 1.0, 1.0, 1.0, None]},
        "similarity": {"base": [5.0] * 5, "sft": [6.0] * 5},
        "accuracy": {"base": [0.0] * 3 + [None] * 2, "sft": [0.0] * 3 + [None] * 2},
    }
    table = make_table(scores, groups=["g", "g", "", "h", "h"])
    assert count_groups(table, score, Difference(system="sft", against="base", count=0)) == groups


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_ends_of_lines_do_not_matter(lines, end):
    assert load_table(end.join(lines), "x", RESULTS).scores == TABLE.scores


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda lines: [], "x: "),
        (lambda lines: lines[:1], "x: "),
        (lambda lines: lines[:2], "x: "),
        (lambda lines: [lines[0].replace("x_sft", "y_sft"), *lines[1:]], "x: "),
        (lambda lines: [lines[0].replace("chrf_base,", ""), *lines[1:]], "x:2: "),
        (lambda lines: [*lines[:2], lines[1]], "x:3: id "),
        (lambda lines: [*lines[:2], lines[2].replace("b,", ",", 1)], "x:3: id "),
        (lambda lines: [lines[0], lines[1].replace("1.0", "high", 1), lines[2]], "x:2: x_base: "),
        (lambda lines: [lines[0], lines[1].replace("1.0", "nan", 1), lines[2]], "x:2: x_base: "),
        (lambda lines: [lines[0], lines[1].replace("1.0", "100.1", 1), lines[2]], "x:2: x_base: "),
        (lambda lines: [lines[0], lines[1].replace("1.0", "", 1), lines[2]], "x: x_base has 1 scores with mean"),
        (lambda lines: [lines[0], lines[1].replace("2.0", "2.001", 1), lines[2]], "x: x_sft has 1 scores with mean"),
        (lambda lines: [*lines[:2], "b" * 200_000], "x:3: not CSV"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("fields_as_python_limits_them")
def test_a_table_that_does_not_belong_to_the_results_is_refused_with_its_place(lines, change, place):
    with pytest.raises(DataError, match=f"^{place}") as refused:
        load_table("\n".join(change(lines)), "x", RESULTS)
    assert "\n" not in str(refused.value)


def test_a_table_of_fewer_records_than_were_tested_is_refused(lines):
    with pytest.raises(DataError, match=r"^x: has 2 records, metrics/evaluate\.json 3; "):
        load_table("\n".join(lines), "x", make_results(TABLE, test={"records": 3}))
