from pathlib import Path

from instruct.core.params import load_params
from instruct.core.records import Example, read_examples
from instruct.splitting.partition import PARTS, SplitParams, divide, split_examples
from instruct.splitting.store import RecordStore

ROOT = Path(__file__).parents[2]


def test_parts_read_back_are_those_split_in_memory():
    params = load_params("split", SplitParams, ROOT / "params.yaml")
    examples = read_examples(ROOT / "data" / "instructions.json")
    examples.append(
        Example(id="é\u2028", instruction="ü", input="\x00\n", output="𝄞", origin="o", parent=examples[3].id)
    )
    store = RecordStore(params.duplicates.on, params.seed)
    for example in examples:
        store.add(example)
    division = divide(store.index, params)
    assert {part: list(store.read_part(division, part)) for part in PARTS} == split_examples(examples, params)
    assert store.read(len(examples) - 1) == examples[-1]
