"""The table of faults.md: thirty kinds, each with tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_kind_of_fault_names_tests_that_exist():
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (HERE / "faults.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    for number, named in rows:
        nodes = re.findall(r"`([^`]+)::(test_\w+)`", named)
        assert nodes and " ".join(f"`{file}::{name}`" for file, name in nodes) == named, number
        for file, name in nodes:
            text = (HERE / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{number}: {file}::{name}"
