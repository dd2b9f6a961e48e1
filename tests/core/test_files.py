import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct.core.errors import DataError, InstructError
from instruct.core.files import (
    read_csv,
    read_json,
    read_text,
    sha256_of,
    write_atomically,
    write_csv,
    write_json,
    write_json_list,
    write_text,
)

SRC = Path(__file__).parents[2] / "src"

# A real failure of the disk: the system refuses every byte beyond the first 1000.
WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from instruct.core.errors import InstructError
from instruct.core.files import write_csv, write_json, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path, kind = Path(sys.argv[1]), sys.argv[2]
try:
    if kind == "text":
        write_text(path, "x" * 5000)
    elif kind == "json":
        write_json(path, list(range(5000)))
    else:
        write_csv(path, ["a"], [{"a": i} for i in range(5000)])
except InstructError as error:
    print(error)
"""


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["text", "json", "csv"])
def test_old_file_survives_a_disk_that_refuses_to_write(tmp_path, kind):
    path = tmp_path / "value"
    path.write_bytes(b"old and whole")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(path), kind],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{path}: cannot be written (File too large); free some space")
    assert path.read_bytes() == b"old and whole"
    assert files_in(tmp_path) == ["value"]


def test_old_file_survives_a_bug_in_the_writer(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"old and whole")

    def fail_half_way(part):
        part.write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, fail_half_way)
    assert path.read_bytes() == b"old and whole"
    assert files_in(tmp_path) == ["value"]


def test_a_reader_never_sees_a_half_written_file(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"old")
    seen = []

    def look_while_writing(part):
        part.write_bytes(b"ne")
        seen.append(path.read_bytes())
        part.write_bytes(b"new")
        seen.append(path.read_bytes())

    write_atomically(path, look_while_writing)
    assert seen == [b"old", b"old"]
    assert path.read_bytes() == b"new"
    assert files_in(tmp_path) == ["value"]


def test_content_is_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    """A power cut after the rename would otherwise leave an empty file in the place of the old one."""
    path, synced = tmp_path / "value", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.pread(descriptor, 9, 0), path.exists())))
    write_text(path, "new")
    assert synced == [(b"new", False)]


def test_folders_are_made_and_rights_follow_the_umask(tmp_path):
    path = tmp_path / "new" / "deep" / "value.txt"
    before = os.umask(0o027)
    try:
        write_text(path, "x")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.umask(before) == before


def test_a_file_where_a_folder_is_needed_is_one_message(tmp_path):
    (tmp_path / "metrics").write_text("a file")
    with pytest.raises(InstructError, match=r"metrics/split.json: cannot be written .*check the folder"):
        write_json(tmp_path / "metrics" / "split.json", {})
    assert (tmp_path / "metrics").read_text() == "a file"


def test_a_folder_in_the_place_of_the_file_is_one_message_and_stays(tmp_path):
    (tmp_path / "value" / "inside").mkdir(parents=True)
    with pytest.raises(InstructError, match="value: cannot be written"):
        write_text(tmp_path / "value", "x")
    assert files_in(tmp_path) == ["value"]
    assert files_in(tmp_path / "value") == ["inside"]


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": {"d": [1.5, None], "c": "ß→🎈"}})
    write_json(tmp_path / "b", {"a": {"c": "ß→🎈", "d": [1.5, None]}, "b": 1})
    expected = """{
  "a": {
    "c": "ß→🎈",
    "d": [
      1.5,
      null
    ]
  },
  "b": 1
}
"""
    assert (tmp_path / "a").read_bytes() == expected.encode() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_never_written(tmp_path, value):
    path = tmp_path / "metrics.json"
    path.write_text("{}\n")
    with pytest.raises(ValueError):
        write_json(path, {"loss": [1.0, value]})
    with pytest.raises(ValueError):
        write_json_list(path, [1.0, {"loss": value}])
    assert path.read_text() == "{}\n"
    assert files_in(tmp_path) == ["metrics.json"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(value=JSON_VALUES)
def test_json_written_is_json_read(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "written.json"
    write_json(path, value)
    assert read_json(path) == value == json.loads(path.read_bytes())


@pytest.mark.parametrize("read", [read_json, read_csv, sha256_of])
def test_missing_file_says_what_to_do(tmp_path, read):
    with pytest.raises(DataError, match=r"none\.json: there is no such file; check the path or run the stage"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize("read", [read_json, read_csv, sha256_of])
def test_folder_in_place_of_a_file_is_named(tmp_path, read):
    with pytest.raises(DataError, match="is a folder; give a file"):
        read(tmp_path)


@pytest.mark.parametrize("read", [read_json, read_csv, sha256_of])
def test_path_through_a_file_is_one_message(tmp_path, read):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/data\.json: cannot be read \(Not a directory\)"):
        read(tmp_path / "file" / "data.json")


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_empty_file_is_called_empty(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.json: the file is empty; it must be a JSON document"):
        read_json(path)


WHOLE = json.dumps([{"instruction": "Name a “bird”.", "output": "a wren\n", "n": [1, -2.5, True]}], ensure_ascii=False)


@pytest.mark.parametrize("length", range(1, len(WHOLE)))
def test_file_cut_off_anywhere_is_called_cut_off(tmp_path, length):
    path = tmp_path / "data.json"
    path.write_text(WHOLE[:length], encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.json:1:\d+: not JSON .*the file looks cut off; copy or download it"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[\n {"a": 1},\n {"a" 2}\n]', "3:7"),
        ('[\n {"a": 1},\n]', "3:1"),
        ("[{'a': 1}]", "1:3"),
        ('{"a": 1}\n{"a": 2}\n', "2:1"),
        ("[1] x", "1:5"),
        ("instruction,output\n", "1:1"),
        ("[1, // two\n 2]", "1:5"),
    ],
)
def test_mistake_in_a_whole_file_is_shown_by_line_and_column(tmp_path, text, place):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"data\.json:{place}: not JSON .*correct the file at this place"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('["café"]'.encode("latin-1"), "byte 5 is 0xe9"),
        ('["naïve"]'.encode("cp1252"), "byte 4 is 0xef"),
        ('["café"]'.encode("utf-16"), "byte 0 is 0xff"),
        (b'["ab\xc3"]', "byte 4 is 0xc3"),
        (b"\xef\xbb\xbf" + '["café"]'.encode("latin-1"), "byte 8 is 0xe9"),
    ],
)
def test_wrong_encoding_is_named_with_the_place_of_the_byte(tmp_path, content, place):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"data\.json: not UTF-8 \({place}\); save the file as UTF-8"):
        read_json(path)
    number, byte = int(place.split()[1]), int(place.split()[3], 16)
    assert content[number] == byte


def test_byte_order_mark_is_accepted_and_not_part_of_the_text(tmp_path):
    path = tmp_path / "data.json"
    path.write_bytes(b"\xef\xbb\xbf" + '["\ufeffé"]'.encode())
    assert read_json(path) == ["\ufeffé"]
    assert read_text(path) == '["\ufeffé"]'


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(tmp_path, constant):
    path = tmp_path / "data.json"
    path.write_text(f'{{"loss": {constant}}}')
    with pytest.raises(DataError, match=rf"data\.json: {constant} is not a JSON value"):
        read_json(path)


def test_a_key_twice_in_one_object_is_refused_but_twice_in_two_is_not(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[{"input": ""}, {"output": "a", "input": "", "output": "b"}]')
    with pytest.raises(DataError, match='the key "output" appears twice in one object'):
        read_json(path)
    path.write_text('[{"a": {"a": 1}}, {"a": 2}]')
    assert read_json(path) == [{"a": {"a": 1}}, {"a": 2}]


def test_hostile_nesting_is_an_answer_not_a_crash(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(DataError, match="nested too deeply"):
        read_json(path)


def test_a_number_of_ten_thousand_digits_is_an_answer_not_a_crash(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("[" + "9" * 10_000 + "]")
    with pytest.raises(DataError, match=r"data\.json: "):
        read_json(path)


def test_csv_reads_in_the_standard_library_and_back(tmp_path):
    path = tmp_path / "curve.csv"
    rows = [{"step": 1, "loss": 0.1, "note": 'a "b", c\nd'}, {"step": 2, "loss": 1e-07}]
    write_csv(path, ["step", "loss", "note"], rows)
    assert path.read_bytes() == b'step,loss,note\n1,0.1,"a ""b"", c\nd"\n2,1e-07,\n'
    with path.open(newline="") as file:
        assert list(csv.DictReader(file)) == read_csv(path)
    assert [row["note"] for row in read_csv(path)] == ['a "b", c\nd', ""]


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text("'=+-@\t\r\n,\"1.e/:a ", max_size=6)


@settings(max_examples=100)
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXTS, "=b": TEXTS}), max_size=3), edited=st.booleans())
def test_csv_written_is_csv_read_whatever_the_text(tmp_path_factory, rows, edited):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    write_csv(path, ["a", "=b"], rows, edited=edited)
    assert read_csv(path) == rows
    csv.field_size_limit(1_000_000)
    with path.open(newline="", encoding="utf-8") as file:
        fields = [field for row in csv.reader(file) for field in row]
    assert len(fields) == 2 * len(rows) + 2, "the standard library finds the same fields"


def test_a_field_is_as_long_as_it_needs_to_be(tmp_path):
    rows = [{"a": "x" * 200_000, "b": "\r" * 200_000}]
    write_csv(tmp_path / "x.csv", ["a", "b"], rows)
    assert read_csv(tmp_path / "x.csv") == rows


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(0)", "'=1"])
def test_no_field_is_a_formula_to_a_spreadsheet(tmp_path, text):
    write_csv(tmp_path / "x.csv", [text], [{text: text}])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert all(field.startswith("'") for row in csv.reader(file) for field in row)


CHANGED = ["123456789012", "1e5", "00012", "3-4", "1/2", "1.10.2026", "12:30", "1E400"]


@pytest.mark.parametrize("key", [*CHANGED, "+5"])
def test_a_key_that_a_spreadsheet_would_change_is_marked_and_a_number_is_not(tmp_path, key):
    rows = [{"key": key, "score": -1e-05}, {"key": "85", "score": "7.5"}]
    write_csv(tmp_path / "x.csv", ["key", "score"], rows, edited=True)
    assert (tmp_path / "x.csv").read_text() == f"key,score\n'{key},-1e-05\n85,7.5\n"
    assert [row["key"] for row in read_csv(tmp_path / "x.csv")] == [key, "85"]


@pytest.mark.parametrize("id_", [*CHANGED, "003e096e03e9", "2024-01"])
def test_another_csv_reader_finds_the_id_that_was_written(tmp_path, id_):
    write_csv(tmp_path / "x.csv", ["id"], [{"id": id_}])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"id": id_}]


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", "a,a\n1,2\n", 'a,b\n1,"2\n'])
def test_csv_of_another_shape_is_one_line_with_its_place(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=r"x\.csv:\d+: ") as refused:
        read_csv(tmp_path / "x.csv")
    assert "\n" not in str(refused.value)


def test_a_pipe_keeps_no_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_csv, sha256_of):
        with pytest.raises(DataError, match=r"pipe: "):
            read(tmp_path / "pipe")


def test_csv_refuses_a_column_that_has_no_header(tmp_path):
    with pytest.raises(ValueError, match="lost"):
        write_csv(tmp_path / "curve.csv", ["step"], [{"step": 1, "lost": 2}])
    assert files_in(tmp_path) == []


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 9000
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("values", [[], [1], [{"b": 'a\n\u2028"', "a": [1, {"c": []}]}, "text", None, []]])
def test_a_list_written_value_by_value_is_the_same_bytes(tmp_path, values):
    write_json(tmp_path / "whole.json", values)
    write_json_list(tmp_path / "streamed.json", iter(values))
    assert (tmp_path / "streamed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
