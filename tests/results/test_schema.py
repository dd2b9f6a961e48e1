import json
from pathlib import Path

import pytest
from results.sample import make_results, make_table

from instruct.core.errors import DataError
from instruct.results.schema import Results, dump, load
from instruct.results.summary import MOST, summary_of

ROOT = Path(__file__).parents[2]
SYSTEMS = {"base": [10.0, None, 30.0], "echo": [5.0, 6.0, 7.0], "sft": [40.0, 50.0, None]}
ABSENT = object()


@pytest.fixture
def results() -> Results:
    return make_results(make_table({"llama": SYSTEMS, "similarity": SYSTEMS}))


def changed(values, path, value):
    """The same document with the field at a dotted path set, or taken out."""
    *before, last = path
    place = values
    for name in before:
        place = place[name]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return json.dumps(values)


def test_what_is_written_is_read_again(results):
    text = json.dumps(dump(results))
    assert load(text, "x") == results
    assert "null" not in text
    assert (results.against, results.primary) == ("base", "sft")


def test_the_committed_results_are_of_this_schema():
    results = load((ROOT / "metrics/evaluate.json").read_text(encoding="utf-8"), "x")
    summary = json.loads((ROOT / "metrics/summary.json").read_text(encoding="utf-8"))
    assert summary == summary_of(results)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("test",), ABSENT),
        (("test", "sha256"), ABSENT),
        (("test", "sha256"), ""),
        (("test", "template_sha256"), ""),
        (("test", "records"), 0),
        (("test", "records"), "3"),
        (("extra",), 1),
        (("judges",), {}),
        (("judges",), []),
        (("judges", 0, "name"), 3),
        (("judges", 0, "identity"), {}),
        (("judges", 0, "identity"), {"model": 3}),
        (("judges", 0, "rubric_sha256"), ""),
        (("judges", 0, "extra"), None),
        (("judges", 0, "controls", "scores", "empty"), "none"),
        (("judges", 0, "systems", 0, "mean"), ABSENT),
        (("judges", 0, "systems", 0, "mean"), True),
        (("judges", 0, "systems", 0, "mean"), float("nan")),
        (("judges", 0, "systems", 0, "scored"), 1.5),
        (("judges", 0, "systems", 0, "scored"), 0),
        (("judges", 0, "systems", 0, "system"), "tuned"),
        (("judges", 0, "differences", 0, "against"), "echo"),
        (("judges", 0, "differences", 0, "p_value"), ABSENT),
        (("judges", 0, "slices", 0, "systems", 1, "mean"), ABSENT),
        (("systems", 1, "name"), "base"),
        (("systems", 1, "name"), "Echo chamber"),
        (("systems", 1, "stopped", "length"), -1),
        (("systems", 1, "measures", "chrf"), ABSENT),
        (("systems", 1, "measures", "chrf"), None),
        (("signatures",), {}),
        (("signatures", "chrf"), 3),
    ],
)
def test_a_field_that_is_missing_unknown_or_wrong_is_named(results, path, value):
    text = changed(dump(results), path, value)
    with pytest.raises(DataError) as refused:
        load(text, "metrics/evaluate.json of main")
    said = str(refused.value)
    assert said.startswith("metrics/evaluate.json of main: ") and "\n" not in said
    # The name of the field, or of the list or mapping that it makes wrong.
    known = [str(part) for part in path if isinstance(part, str)]
    assert any(name in said.partition(": ")[2] for name in known)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"x"', "{}", '{"version": 1}', '{"version": 3}', "[" * 100_000, "1" * 5000,
     '{"base": {}, "tuned": {}}', '{"a":' * 300 + "1" + "}" * 300],
)  # fmt: skip
def test_another_document_or_version_is_refused_in_one_line(text):
    with pytest.raises(DataError, match=r"^x(:\d+)?: ") as refused:
        load(text, "x")
    assert "\n" not in str(refused.value)


def test_the_summary_holds_few_numbers_whatever_the_number_of_systems(results):
    summary = summary_of(results)
    differences = {"difference_base", "difference_low_base", "difference_high_base"}
    assert {"score_base", "score_echo", "score_sft", "ended", "unscored", *differences} <= set(summary)
    assert (summary["score_sft"], summary["unscored"]) == (45.0, 2)
    assert summary["ended"] == pytest.approx(100 * 2 / 3, abs=1e-4)
    many = {"base": [10.0], **{f"s{i}": [20.0] for i in range(20)}, "dpo": [30.0]}
    summary = summary_of(make_results(make_table({"llama": many})))
    assert len(summary) == MOST and {"score_base", "score_dpo"} <= set(summary)


def test_a_run_without_any_score_has_no_mean_and_no_difference():
    nobody = {"base": [None, None], "sft": [None, None]}
    results = make_results(make_table({"llama": nobody}))
    summary = summary_of(load(json.dumps(dump(results)), "x"))
    assert not {"difference_base", "score_base", "score_sft"} & set(summary) and summary["unscored"] == 4
