"""Whatever a file holds: records that an independent reader finds too, problems in words, or one DataError."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from fuzz import examples
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from instruct.core.errors import DataError
from instruct.core.json_stream import stream_list
from instruct.formats import text
from instruct.formats.rows import check_rows

NAMES = ["data.json", "data.jsonl", "data.csv", "data.tsv", "data.parquet"]
FUZZ = examples(40)
PIECES = st.sampled_from(
    [
        b'{"instruction": "a", "input": "", "output": "b"}',
        b'{"prompt": "p", "completion": "c"}',
        b'{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "v"}]}',
        b"instruction,input,output",
        *[b"a,,b", b'"output": ', b'"id": "x"', b"NaN", b"null", b"-", b"1e", b"\\", b"\\ud83d"],
        *[b"[", b"]", b"{", b"}", b",", b":", b'"', b"\n", b"\r\n", b"\r", b"\x00"],
        *[b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", "é中🎈".encode(), "é".encode("latin-1")],
        *[b"[" * 2000, b'{"a":' * 2000],
    ]
)
GOOD = {"instruction": "a", "input": "", "output": "b"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FILLED = TEXT.filter(str.strip)
RECORDS = st.lists(
    st.fixed_dictionaries({"instruction": FILLED, "input": TEXT, "output": FILLED}), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def outcome_of(path):
    """Records and problems, or the one message; anything else that is raised fails the test."""
    try:
        examples, problems = check_rows(path)
    except DataError as error:
        assert str(error).isprintable()
        return None, str(error)
    for lines in problems.values():
        assert lines
        for line in lines:
            assert line.startswith(str(path))
            assert line.isprintable()
            line.encode("utf-8")
    for example in examples:
        assert example.instruction.strip()
        assert example.output.strip()
        json.dumps([example.instruction, example.input, example.output], ensure_ascii=False).encode("utf-8")
    return examples, problems


@pytest.mark.parametrize("name", NAMES)
@FUZZ
@given(content=st.binary(max_size=300) | st.lists(PIECES, max_size=12).map(b"".join))
def test_no_bytes_give_a_traceback(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    outcome_of(path)


@FUZZ
@given(content=st.lists(PIECES, max_size=8).map(lambda pieces: b"[" + b",".join(pieces) + b"]"))
def test_a_json_list_is_read_as_python_reads_it_or_refused(folder, content):
    path = folder / "list.json"
    path.write_bytes(content)
    try:
        values = json.loads(content.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        values = []
    examples, problems = outcome_of(path)
    if not values:
        assert examples is None
        return
    assert len(examples) + len(problems) == len(values)
    assert all(values[index] != GOOD for index in problems)
    plain = [value for i, value in enumerate(values) if i not in problems]
    assert all(value in (GOOD, {**GOOD, "id": "x"}) or {*value} & {"prompt", "messages"} for value in plain)


@FUZZ
@given(rows=RECORDS, chunk=st.integers(1, 40), indent=st.sampled_from([None, 1]), escape=st.booleans())
def test_where_the_pieces_of_a_file_end_does_not_matter(rows, chunk, indent, escape):
    content = json.dumps(rows, indent=indent, ensure_ascii=escape).encode()

    class Drips(io.BytesIO):
        def read(self, size=-1):
            return super().read(chunk)

    elements = list(stream_list(Drips(content), "x.json"))
    assert [element.value for element in elements] == rows
    lines = [content[: content.find(b"{")].count(b"\n") + 1] + [element.line for element in elements[1:]]
    assert elements[0].line == lines[0]
    assert lines == sorted(lines)


@pytest.mark.parametrize("delimiter", [",", "\t"])
@FUZZ
@given(rows=RECORDS)
def test_csv_written_by_python_is_read_to_the_letter(folder, delimiter, rows):
    path = folder / ("round.csv" if delimiter == "," else "round.tsv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    examples, problems = check_rows(path)
    assert problems == {}
    wanted = [{**row, "input": row["input"] if row["input"].strip() else ""} for row in rows]  # a blank input is none
    assert [{"instruction": e.instruction, "input": e.input, "output": e.output} for e in examples] == wanted


@FUZZ
@given(rows=RECORDS, damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_damaged_parquet_file_gives_no_traceback(folder, rows, damage):
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    content = bytearray(out.getvalue())
    for place, byte in damage:
        content[place % len(content)] = byte
    path = folder / "damaged.parquet"
    path.write_bytes(content)
    examples, _ = outcome_of(path)
    if not damage:
        assert [e.output for e in examples] == [row["output"] for row in rows]


@FUZZ
@given(rows=RECORDS, place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_gzip_file_gives_no_traceback_and_no_wrong_record(folder, rows, place, byte, cut):
    content = bytearray(gzip.compress(json.dumps(rows).encode(), mtime=0))
    at = 10 + place % (len(content) - 10)
    if cut:
        content = content[:at]
    else:
        content[at] = byte
    path = folder / "damaged.json.gz"
    path.write_bytes(content)
    examples, _ = outcome_of(path)
    if examples is not None:
        assert [e.output for e in examples] == [row["output"] for row in rows]


@FUZZ
@given(bad=st.lists(st.sampled_from([b"{", b"7", b'{"instruction": "a"}', b"\xff", b'"x', b"[[]]"]), max_size=6))
def test_bad_lines_are_counted_and_good_ones_kept_in_order(folder, bad):
    lines = []
    for i, line in enumerate(bad):
        lines += [b'{"instruction": "%d", "input": "", "output": "o"}' % i, line]
    lines.append(b'{"instruction": "last", "input": "", "output": "o"}')
    path = folder / "mixed.jsonl"
    path.write_bytes(b"\n".join(lines))
    examples, problems = check_rows(path)
    assert [e.instruction for e in examples] == [*map(str, range(len(bad))), "last"]
    assert list(problems) == [2 * i + 1 for i in range(len(bad))]
    assert all(lines[0].startswith(f"{path}:{i + 1}: ") for i, lines in problems.items())


def test_the_longest_record_is_a_limit_that_can_be_reached(tmp_path, monkeypatch):
    lines = [b'{"instruction": "%d", "input": "", "output": "b"}' % i for i in range(9, 12)]
    monkeypatch.setattr(text, "MAX_RECORD", len(lines[0]))
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*lines, lines[0]]))
    examples, problems = check_rows(path)
    assert [e.instruction for e in examples] == ["9", "9"]
    assert list(problems) == [1, 2]
