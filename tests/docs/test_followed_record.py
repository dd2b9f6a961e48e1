"""docs/how-it-works follows one record of the data set through every stage."""

import json
import re
from pathlib import Path

from instruct.core.records import check_examples

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "how-it-works"


def test_the_record_beside_the_pages_is_the_one_of_the_data_set_and_of_the_drawings():
    examples, _ = check_examples(PAGES / "record.json")
    (record,) = json.loads((PAGES / "record.json").read_text("utf-8"))
    data = (ROOT / "data/instructions.json").read_text("utf-8").splitlines()
    line = int(re.search(r"line (\d+) of", (PAGES / "overview.md").read_text("utf-8"))[1])
    assert json.loads(data[line - 1].rstrip(",")) == record
    named = {id_ for page in PAGES.glob("*.md") for id_ in re.findall(r"\b[0-9a-f]{12}\b", page.read_text("utf-8"))}
    assert examples[0].id in named
    assert f'FOLLOWED = "{examples[0].id}"' in (ROOT / "docs/animations/evaluation_loop.py").read_text("utf-8")
