"""A check that is not one is refused by place and field."""

from pathlib import Path

import pytest

from instruct import checks
from instruct.checks.schema import parse_check
from instruct.checks.signature import RULE
from instruct.core.errors import DataError


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "type"),
        ({"type": "exactly"}, "type"),
        ({"type": ["accept"]}, "type"),
        ({"type": "accept"}, "accept"),
        ({"type": "accept", "accept": []}, "accept"),
        ({"type": "accept", "accept": "Lima"}, "accept"),
        ({"type": "accept", "accept": [" "]}, "accept"),
        ({"type": "accept", "accept": ["?!"]}, "accept.*no letters or digits.*Write it in words"),
        ({"type": "set", "items": ["a", "…"]}, "items.*no letters or digits"),
        ({"type": "accept", "accept": ["a"], "values": 3}, "values"),
        ({"type": "exact", "accept": ["a"], "strict": 1}, "strict"),
        ({"type": "one_of", "answer": "a", "options": ["b"]}, "answer"),
        ({"type": "one_of", "answer": "Yes", "options": ["Yes", "yes!", "no"]}, 'options.*"Yes" and "yes!"'),
        ({"type": "number", "value": True}, "value"),
        ({"type": "number", "value": float("nan")}, "value"),
        ({"type": "number", "value": [1, 2], "unit": "m"}, "unit"),
        ({"type": "number", "value": 1, "tolerance": -1}, "tolerance"),
        ({"type": "set", "items": []}, "items"),
        ({"type": "order", "items": [["a", ""]]}, "items"),
        ({"type": "open", "accept": ["a"]}, "accept"),
    ],
)
def test_what_is_wrong_is_named_by_place_and_field(value, field):
    with pytest.raises(DataError, match=rf"^data\.json\[3\]: check.*{field}"):
        parse_check(value, "data.json[3]")


def test_a_change_of_any_module_of_the_rule_changes_the_signature():
    modules = {path.name for path in Path(checks.__file__).parent.glob("*.py")}
    assert set(RULE) == modules - {"__init__.py", "schema.py", "signature.py"}
