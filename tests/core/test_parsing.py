import os
import re
from pathlib import Path

import pytest
from dvc.utils.serialize import loads_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instruct.backbones.catalog import read_table
from instruct.core.errors import DataError, InstructError
from instruct.core.params import read_params
from instruct.core.parsing import LONGEST, parse_json, parse_yaml, read_yaml
from instruct.tools.import_data import read_sources

ROOT = Path(__file__).parents[2]
READERS = (read_yaml, read_params, read_table, read_sources)


def same(left: object, right: object) -> bool:
    """Equal, and of the same types: 1, 1.0 and true are three values."""
    return repr(left) == repr(right)


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml", "dvc.lock", "models/backbones.yaml", "data/sources.yaml"])
def test_our_own_files_are_read_as_dvc_reads_them(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert parse_yaml(text, name) == loads_yaml(text)


PLAIN = st.text(st.sampled_from("0123456789+-_.eExXobBAf~TtrueFalsNnI"), max_size=9)


@settings(max_examples=600)
@given(text=PLAIN)
@example(text="1e-05")
@example(text="1e5")
@example(text="+1_000")
@example(text="017")
@example(text="-0x1F")
@example(text="0b101")
@example(text=".5e+3")
@example(text=".5e3")
@example(text="no")
@example(text="1:30")
@example(text="-")
def test_a_plain_value_is_what_dvc_reads_or_is_refused(text):
    """Refused are only dates, numbers beyond 64 bits and what is no number although it looks like one."""
    document = f"- {text}\n- end\n"
    try:
        ours = parse_yaml(document, "here")
    except DataError as error:
        assert re.match(r"here:\d+: ", str(error)) and "\n" not in str(error)
        assert refusable(document, text)
    else:
        assert same(ours, loads_yaml(document))


def refusable(document: str, text: str) -> bool:
    try:
        theirs = loads_yaml(document)[0]
    except Exception:
        return True
    return theirs != theirs or theirs in (float("inf"), -float("inf")) or type(theirs).__name__ in ("date", "int")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab1é ", max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100)
@given(value=VALUES)
def test_what_dvc_writes_is_read_back(value):
    from dvc.utils.serialize import dumps_yaml

    written = dumps_yaml({"value": value})
    assert same(parse_yaml(written, "here"), {"value": loads_yaml(written)["value"]})


@pytest.mark.parametrize(
    "text",
    [
        "a: &x {p: 1, q: [1, 2]}\nb: *x\nc: [*x, *x]\n",
        "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\n",
        "a: &x {p: 1}\nb: &y {p: 2, r: 3}\nc:\n  <<: [*x, *y]\n  s: 4\n",
        '"<<": {a: 1}\n',
        "a: |\n  line\n  other\nb: >-\n  folded\n  text\n",
        "? a\n: 1\n",
        "- - 1\n  - {}\n- []\n",
        "",
        "# a remark only\n",
    ],
)
def test_aliases_merges_and_blocks_are_read_as_dvc_reads_them(text):
    assert parse_yaml(text, "here") == loads_yaml(text)


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}\n" for i in range(1, 12)
)
# What the text is, and the line that the answer must name; None where no line can be named.
HOSTILE = {
    "a tag of a number": ("x: 1\ny: !!int abc\n", 2),
    "a tag of python": ("x: !!python/object/apply:os.getcwd []\n", 1),
    "a month that is none": ("x:\n  y: 2020-13-45\n", 2),
    "a date": ("body: {a: 2020-01-01}\n", 1),
    "an offset that is none": ("x: 2020-01-01 10:00:00 -99:00\n", 1),
    "five thousand digits": (f"x: {'9' * 5000}\n", 1),
    "a seed beyond 64 bits": (f"train:\n  seed: {2**70}\n", 2),
    "too great a number": ("x: 1e400\n", 1),
    "infinity": ("x: .inf\n", 1),
    "not a number": ("x: .nan\n", 1),
    "brackets": (f"x: {'[' * 3000}\n", 1),
    "closed brackets": (f"x: {'[' * 3000}{']' * 3000}\n", 1),
    "braces": ("x: " + "{a: " * 3000 + "\n", 1),
    "dashes": ("- " * 3000 + "\n", 1),
    "questions": ("? " * 3000 + "\n", 1),
    "an alias bomb": (BOMB, 6),
    "a merge bomb": (MERGES, 6),
    "a chain of aliases": ("a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)), 100),
    "an alias to itself": ("x: &a [*a]\n", 1),
    "an alias to nothing": ("x: 1\ny: *z\n", 2),
    "a merge of a number": ("x: {<<: 5}\n", 1),
    "two merges": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}\n", 2),
    "a zero byte": ('x: 1\ny: "a\\0b"\n', 2),
    "half a pair": ('x: "\\ud800"\n', 1),
    "a key twice": ("x: 1\ny: 2\nx: 3\n", 3),
    "a key twice within": ("f:\n  sha256: a\n  sha256: b\n", 3),
    "a key twice in other words": ('x: 1\n"x": 2\n', 2),
    "a list as a key": ("? [a]\n: 1\n", 1),
    "a second document": ("x: 1\n---\ny: 2\n", 2),
    "an older YAML": ("%YAML 1.1\n---\nx: no\n", 1),
    "a control character": ("x: \x01\n", None),
    "a tab": ("x:\n\ty: 1\n", 2),
    "an open quote": ('x: 1\ny: "open\n', 3),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_hostile_file_is_one_line_with_its_place(tmp_path, name, read):
    text, line = HOSTILE[name]
    path = tmp_path / "table.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InstructError) as error:
        read(path)
    said = str(error.value)
    assert "\n" not in said and len(said) < len(str(path)) + 200
    assert said.startswith(f"{path}:{line}:" if line else f"{path}:")


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_no_file_is_too_long_or_keeps_a_reader_waiting(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    long = tmp_path / "long"
    long.write_text("#" * (LONGEST + 1))
    longer = tmp_path / "longer"
    longer.touch()
    os.truncate(longer, 1 << 40)  # a sparse file: it would not fit into memory
    for path in (tmp_path / "pipe", long, longer, tmp_path):
        with pytest.raises(InstructError, match=re.escape(f"{path}: ")):
            read(path)


def test_many_small_values_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"^here:1: "):
        parse_yaml("[" + "1," * 210_000 + "]", "here")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[" * 200 + "]" * 200, "9" * 5000, "", "{'a': 1}"])
def test_hostile_json_is_one_line(text):
    with pytest.raises(DataError, match=r"^here:"):
        parse_json(text, "here")
