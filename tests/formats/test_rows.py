import bz2
import csv
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from formats.reading import read_rows
from pyarrow import parquet

from instruct.core.errors import DataError
from instruct.core.records import Example, check_examples
from instruct.formats.columns import USUAL
from instruct.formats.rows import Rows, check_rows, format_of, left_out_lines

ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"
ROWS = [
    {"instruction": "Name a bird.", "input": "", "output": "A wren.", "kind": "birds"},
    {
        "instruction": 'Quote "this", please.',
        "input": "a, b\nc; d\t",
        "output": 'She said: "no"\r\nand left',
        "kind": "q",
    },
    {"instruction": "Étoile", "input": "中文 \u2028 x", "output": "🎈 \x0b \ufeff end ", "kind": "k"},
]


def as_json(rows):
    return json.dumps(rows).encode()


def as_json_lines(rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def as_csv(rows, delimiter=","):
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def as_zstd(content):
    return pa.compress(content, codec="zstd", asbytes=True)


FORMATS = {
    ".json": as_json,
    ".jsonl": as_json_lines,
    ".ndjson": as_json_lines,
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".parquet": as_parquet,
}
COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": as_zstd}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_compressed_or_not_holds_the_same_records(tmp_path, suffix, compression):
    path = write(tmp_path, f"data{suffix}{compression}", COMPRESSIONS[compression](FORMATS[suffix](ROWS)))
    examples = read_rows(path)
    assert [{name: getattr(e, name) for name in ROWS[0]} for e in examples] == ROWS
    assert examples == check_examples(write(tmp_path, "oracle.json", as_json(ROWS)))[0]


def test_rows_can_be_read_again_and_again(tmp_path):
    rows = Rows(write(tmp_path, "data.csv.gz", gzip.compress(as_csv(ROWS))))
    assert list(rows) == list(rows)
    assert next(iter(rows)).instruction == "Name a bird."
    assert len(list(rows)) == 3


@pytest.mark.skipif(not BOOK.exists(), reason="needs ../shared/data/seed of the workplace")
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_books_records_are_the_same_in_every_format(tmp_path, suffix):
    rows = json.loads(BOOK.read_text(encoding="utf-8"))
    path = write(tmp_path, f"book{suffix}", FORMATS[suffix](rows))
    assert read_rows(path) == check_examples(BOOK)[0]


def test_json_lines_under_the_name_json_are_read_as_such(tmp_path):
    assert len(read_rows(write(tmp_path, "data.json", as_json_lines(ROWS)))) == 3


LONG = {**ROWS[0], "output": "word " * 3000}


@pytest.mark.parametrize("blanks", [b"", b" \n\r\n\t"])
@pytest.mark.parametrize("rows", [[LONG, *ROWS], [LONG], ROWS[:1], [{**ROWS[0], "input": "{"}, LONG]])
def test_the_first_value_tells_json_lines_from_a_list_whatever_its_length(tmp_path, rows, blanks):
    for content in (as_json_lines(rows), as_json(rows), as_json_lines(rows).rstrip(b"\n")):
        path = write(tmp_path, "data.json", blanks + content)
        assert [example.output for example in read_rows(path)] == [row["output"] for row in rows]


def test_a_bad_line_of_json_lines_under_the_name_json_has_its_own_number(tmp_path):
    path = write(tmp_path, "data.json", b"\n" + as_json_lines([ROWS[0]]) + b"{]\n" + as_json_lines(ROWS[1:]))
    examples, problems = check_rows(path)
    assert len(examples) == 3
    assert [lines[0].split(": ")[0] for lines in problems.values()] == [f"{path}:3"]


@pytest.mark.parametrize("content", [as_json(ROWS), json.dumps(ROWS).encode(), json.dumps(ROWS, indent=2).encode()])
@pytest.mark.parametrize("name", ["data.jsonl", "data.ndjson", "data.JSONL.gz"])
def test_a_list_under_a_name_of_json_lines_says_which_name_is_right(tmp_path, content, name):
    path = write(tmp_path, name, gzip.compress(content, mtime=0) if name.endswith("gz") else content)
    with pytest.raises(DataError) as error:
        check_rows(path)
    assert len(str(error.value).splitlines()) == 1
    assert "rename it to data.json" in str(error.value)


@pytest.mark.parametrize("whole", [{}, {"data": ROWS}, {"a": [1], "b": [2]}])
def test_an_object_over_several_lines_is_no_list_of_records(tmp_path, whole):
    with pytest.raises(DataError, match="must be a list of records"):
        check_rows(write(tmp_path, "data.json", json.dumps(whole, indent=1).encode() + b"\n" if whole else b"{\n}"))


EMPTY_INPUTS = [None, "", " \n", "\t", "<noinput>", "<No Input>", "<no_input>"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("given", EMPTY_INPUTS)
def test_every_way_to_say_no_input_is_an_empty_one_in_every_format(tmp_path, suffix, given):
    rows = [{**ROWS[0], "input": given}, {**ROWS[1], "input": "<noinputs>"}]
    content = {".json": as_json, ".jsonl": as_json_lines}.get(suffix)
    path = tmp_path / f"data{suffix}"
    if content:
        path.write_bytes(content(rows))
    else:
        parquet.write_table(
            pa.Table.from_pylist([{k: v for k, v in r.items() if isinstance(v, str | None)} for r in rows]), path
        )
    examples = read_rows(path)
    assert [example.input for example in examples] == ["", "<noinputs>"]
    plain = check_rows(write(tmp_path, "plain.json", as_json([{**rows[0], "input": ""}])))[0]
    assert examples[0].id == plain[0].id


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_number_as_an_id_is_its_digits_and_null_is_none(tmp_path, suffix):
    rows = [{"instruction": f"a{i}", "input": "", "output": "b", "id": i, "kind": None} for i in (7, 10**15)]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(as_json(rows)) if suffix == ".json" else parquet.write_table(pa.Table.from_pylist(rows), path)
    assert [(example.id, example.kind) for example in read_rows(path)] == [("7", ""), (str(10**15), "")]
    for wrong in (True, 1.5, [1]):
        assert check_rows(write(tmp_path, "wrong.json", as_json([{**ROWS[0], "id": wrong}])))[1]


def test_what_is_left_out_of_good_records_is_counted(tmp_path):
    def chat(turns, system=False, **more):
        told = [{"role": "system", "content": "Be short."}] if system else []
        pairs = [
            [{"role": "user", "content": f"q{i} {turns}"}, {"role": "assistant", "content": "a"}] for i in range(turns)
        ]
        return {"messages": told + [message for pair in pairs for message in pair], **more}

    rows = [chat(1), chat(2), chat(3, True), chat(4, True, score=1), chat(5, score=None), {"messages": []}]
    path = write(tmp_path, "chats.jsonl", as_json_lines(rows))
    found = Rows(path, replace(USUAL, turns="first", system="ignore", others="ignore"))
    for _ in range(2):  # counted once, however often it is read
        assert sum(isinstance(row, Example) for row in found) == 5
        assert found.left_out == {"turns": 4, "system": 2, "columns": 1}
    assert len(left_out_lines(found)) == 3
    nothing = Rows(write(tmp_path, "plain.json", as_json(ROWS)))
    assert (len(list(nothing)), left_out_lines(nothing)) == (3, [])


def test_thousands_of_problems_of_one_kind_are_a_few_lines_and_a_count(tmp_path):
    rows = [{**ROWS[0], "source": i} for i in range(3000)]
    rows[7] = {**ROWS[0], "output": 3}
    with pytest.raises(DataError) as error:
        read_rows(write(tmp_path, "data.jsonl", as_json_lines(rows)))
    lines = str(error.value).splitlines()
    assert len(lines) < 10
    assert sum('"source"' in line for line in lines) == 6
    assert sum('"output"' in line for line in lines) == 1
    assert "2994 more" in lines[-1]


def test_utf8_mark_is_no_part_of_the_first_record_or_column(tmp_path):
    for suffix in (".json", ".jsonl", ".csv"):
        path = write(tmp_path, f"data{suffix}", b"\xef\xbb\xbf" + FORMATS[suffix](ROWS))
        assert read_rows(path)[0].instruction == "Name a bird."


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_other_encodings_are_named(tmp_path, encoding):
    path = write(tmp_path, "data.csv", as_csv(ROWS).decode().encode(encoding))
    with pytest.raises(DataError, match=rf"data\.csv: is {encoding.upper()}; save the file as UTF-8"):
        read_rows(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data", "the name must end with its format; there are .json, .jsonl, .ndjson, .csv, .tsv, .parquet"),
        ("data.jsnl", "did you mean .jsonl"),
        ("data.gz", "must end with its format"),
        ("data.zip", "must end with its format"),
    ],
)
def test_a_name_that_tells_no_format_is_refused(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        read_rows(write(tmp_path, name, as_json(ROWS)))


def test_endings_in_capitals_count():
    assert format_of(Path("DATA.JSON.GZ")) == ".json"


MALFORMED = [
    ("data.jsonl", b'{"instruction": "a", "input": "", "output": "b"}\n\n{]\n"x"\n', [(1, ":3"), (2, ":4")]),
    ("data.csv", b"instruction,input,output\na,,b\n\nc,,\nd\ne,,\xe9\n", [(1, ":4"), (2, ":5"), (3, ":6")]),
    ("data.csv", b'instruction,input,output\n"a\nb","c\n\nd",e\nf,,\n', [(1, ":6")]),
    (
        "data.json",
        b'[\n {"instruction": "a", "input": "", "output": "b"},\n\n 7, {\n"instruction": "a"}]',
        [(1, "[1], line 4"), (2, "[2], line 4")],
    ),
]


@pytest.mark.parametrize(("name", "content", "expected"), MALFORMED)
def test_each_malformed_record_is_named_with_its_place(tmp_path, name, content, expected):
    path = write(tmp_path, name, content)
    examples, problems = check_rows(path)
    assert len(examples) == 1
    assert [(index, lines[0].split(": ")[0]) for index, lines in problems.items()] == [
        (index, f"{path}{place}") for index, place in expected
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'{"instruction": "a", "input": "", "output": NaN}', '"output" must be text, is NaN'),
        (b'{"instruction": -Infinity, "input": "", "output": "b"}', '"instruction" must be text, is -Infinity'),
        (
            b'{"instruction": "a", "input": "", "output": "b", "output": "c"}',
            '"output" appears twice in one object; remove one',
        ),
        (b'{"instruction": "\xff\xfe", "input": "", "output": "b"}', '"instruction" holds the byte 0xff'),
        (b'{"instruction": "\xed\xa0\x80", "input": "", "output": "b"}', '"instruction" holds the byte 0xed'),
        (b'{"instruction": "a\\ud800", "input": "", "output": "b"}', '"instruction" holds half of a surrogate pair'),
        (
            b'{"instruction": "a", "input": "", "output": ' + b"9" * 5000 + b"}",
            '"output" must be text, is the number 9999',
        ),
        (b'{"instruction": "a", "input": "", "output": 1e999}', '"output" must be text, is the number inf'),
        (b'{"instruction": "a", "input": "", "output": "b", "\\u001b[31m": 1}', '"\\x1b[31m" is not a field'),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_what_json_forbids_spoils_one_record_and_not_the_others(tmp_path, suffix, record, message):
    good = b'{"instruction": "%d", "input": "", "output": "b"}'
    parts = [good % 1, record, good % 2]
    content = b"[" + b",".join(parts) + b"]" if suffix == ".json" else b"\n".join(parts)
    examples, problems = check_rows(write(tmp_path, f"data{suffix}", content))
    assert [example.instruction for example in examples] == ["1", "2"]
    assert list(problems) == [1]
    (line,) = problems[1]
    assert message in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[{"a": 1}, {"a": }]', r"a\.json:1:18: not JSON \(Expecting value\); correct the file"),
        ("a.json", b'[{"a": 1},\n {"a": tru', r"a\.json:2:8: not JSON .*; the file looks cut off"),
        ("a.json", b"[1] 2", r"a\.json:1:5: not JSON \(Extra data\)"),
        ("a.json", b"[1,\n2,]", r"a\.json:2:3: not JSON \(Expecting value\)"),
        ("a.json", b"[1 2]", r"a\.json:1:4: not JSON \(Expecting ',' delimiter\)"),
        ("a.json", b"[" * 100_000, r"a\.json:1: nested too deeply"),
        ("a.json", b'[{"a":' * 100_000, r"a\.json:1: nested too deeply"),
        ("a.json", b"7", r"a\.json: must be a list of records, is the number 7"),
        ("a.jsonl", b" \n\n", r"a\.jsonl: holds no records"),
        ("a.csv", b"instruction,input,output\n", r"a\.csv: holds no records"),
        ("a.csv", b'instruction,input,output\na,,"b\nc,,d\n', r"a\.csv:2: a broken row \(unexpected end of data\)"),
        ("a.csv", b'instruction,input,output\na,,"b"c\n', r"a\.csv:2: a broken row"),
        ("a.csv", b"instruction,input,input\na,,b\n", r'a\.csv:1: the column "input" appears twice in the header'),
        ("a.csv", b"instruction;input;output\na;;b\n", r"a\.csv:1: the header is one column, .*; a \.csv needs commas"),
        ("a.parquet", b"PAR1 no PAR1", r"a\.parquet: .*cannot? be read|not a Parquet file"),
        ("a.json.gz", b"[1]", r"a\.json\.gz: cannot be decompressed"),
        ("a.jsonl.gz", gzip.compress(b"x" * 9999, mtime=0)[:-12], r"a\.jsonl\.gz: the file looks cut off"),
        ("a.jsonl.zst", b"[1]", r"a\.jsonl\.zst: cannot be decompressed"),
        ("a.jsonl.xz", b"[1]" * 9, r"a\.jsonl\.xz: cannot be decompressed"),
        ("a.jsonl.bz2", b"[1]", r"a\.jsonl\.bz2: cannot be decompressed"),
    ],
)
def test_a_file_that_cannot_be_told_apart_is_one_message(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as error:
        check_rows(write(tmp_path, name, content))
    assert len(str(error.value).splitlines()) == 1


def test_nesting_bomb_in_json_lines_spoils_its_line_alone(tmp_path):
    content = as_json_lines(ROWS[:1]) + b"[" * 100_000 + b"]" * 100_000 + b"\n" + as_json_lines(ROWS[1:])
    examples, problems = check_rows(write(tmp_path, "bomb.jsonl", content))
    assert len(examples) == 3
    assert [lines[0].split(": ")[1] for lines in problems.values()] == [
        "nested too deeply to be a record; correct this line"
    ]


def test_ids_are_given_across_formats_and_doubled_ones_refused(tmp_path):
    rows = [ROWS[0], ROWS[0], {**ROWS[1], "id": "own"}, {**ROWS[2], "id": "own"}]
    examples, problems = check_rows(write(tmp_path, "data.jsonl", as_json_lines(rows)))
    assert examples[1].id == f"{examples[0].id}-2"
    assert problems == {3: [f'{tmp_path / "data.jsonl"}:4: "id" is also that of record 2 (own); ids must differ']}


def german(count, bad=()):
    """CSV of German records, in UTF-8 but for the `bad` ones, which are in Windows-1252."""
    rows = ["instruction,input,output"] + [f"Wie heißt Vogel {i}?,,„Spaß“ für Müller {i}" for i in range(count)]
    return b"\n".join(row.encode("cp1252" if i - 1 in bad else "utf-8") for i, row in enumerate(rows))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".jsonl"])
def test_a_file_in_windows_1252_is_one_error_about_the_file(tmp_path, suffix):
    rows = [{"instruction": f"Wie heißt Vogel {i}?", "input": "", "output": "Spaß"} for i in range(9)]
    content = {
        ".csv": german(9, range(9)),
        ".csv.gz": gzip.compress(german(9, range(9))),
        ".json": json.dumps(rows, ensure_ascii=False).encode("cp1252"),
        ".jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("cp1252"),
    }
    path = write(tmp_path, f"data{suffix}", content[suffix])
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: looks like Windows-1252; save the file as UTF-8$"):
        check_rows(path)


def test_a_header_in_windows_1252_is_one_error_about_the_file(tmp_path):
    path = write(tmp_path, "data.csv", "question,réponse\nWhy?,So.\n".encode("cp1252"))
    with pytest.raises(DataError, match="looks like Windows-1252"):
        check_rows(path)


@pytest.mark.parametrize("bad", [{5}, {2, 7}, {1, 2, 3, 4}])
def test_a_few_broken_records_of_a_file_in_utf8_are_named_one_by_one(tmp_path, bad):
    path = write(tmp_path, "data.csv", german(20, bad))
    examples, problems = check_rows(path)
    assert (set(problems), len(examples)) == (bad, 20 - len(bad))
    assert all(lines[0].startswith(f'{path}:{i + 2}: "instruction" holds the byte') for i, lines in problems.items())


def test_bytes_that_are_no_text_in_any_encoding_are_named_one_by_one(tmp_path):
    content = b"instruction,input,output\n" + b"".join(b"Why %d?,,\x81\xfc\n" % i for i in range(9))
    _, problems = check_rows(write(tmp_path, "data.csv", content))
    assert set(problems) == set(range(9))


def test_parquet_null_is_a_field_that_is_not_there_and_wrong_bytes_are_named(tmp_path):
    table = pa.table(
        {
            "instruction": pa.array(["a", None, "c"]),
            "input": pa.array(["", "", ""]),
            "output": pa.array([b"x", b"y", b"\xff"]).view(pa.string()),
            "id": pa.array([None, None, "own"]),
        }
    )
    path = tmp_path / "data.parquet"
    parquet.write_table(table, path)
    examples, problems = check_rows(path)
    assert [example.output for example in examples] == ["x"]
    assert problems[1] == [f'{path}[1]: "instruction" is missing; add it']
    assert problems[2][0].startswith(f'{path}[2]: "output" holds the byte 0xff, which is not UTF-8')


PEAK = """
import resource, sys
from pathlib import Path
from instruct.formats.rows import Rows
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    count = sum(1 for row in Rows(Path(path)))
    print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """One process reads all kinds one after the other: its peak is that of the worst."""
    rows = [{"instruction": f"{i}", "input": "", "output": f"{i} " + "long " * 4000} for i in range(3000)]
    contents = {f"a{suffix}": FORMATS[suffix](rows) for suffix in (".json", ".jsonl", ".csv", ".parquet")}
    assert all(len(content) > 60_000_000 for name, content in contents.items() if name != "a.parquet")
    contents["a.json.gz"] = gzip.compress(contents["a.json"], 1)
    paths = [str(write(tmp_path, name, content)) for name, content in contents.items()]
    done = subprocess.run([sys.executable, "-c", PEAK, *paths], capture_output=True, text=True, check=True)
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [count for count, _ in found] == [3000] * 5
    assert all(kilobytes < 40_000 for _, kilobytes in found), dict(zip(contents, found, strict=True))


def test_a_line_of_100_megabytes_is_one_bad_record_in_little_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(as_json_lines(ROWS[:1]) + b'{"instruction": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + as_json_lines(ROWS[1:]))
    examples, problems = check_rows(path)
    assert len(examples) == 3
    assert problems == {1: [f"{path}:2: a line of more than 16,777,216 bytes; is a line break missing?"]}
    for name in ("long.json", "long.csv"):
        with pytest.raises(DataError, match=r"(record|line) of more than 16,777,216 characters"):
            check_rows(write(tmp_path, name, b'["' + b"x" * 100_000_000))


def test_columns_map_names_ignore_others_and_do_without_an_input(tmp_path):
    rows = [{"question": "a", "answer": "b", "source": 7}, {"question": "c", "answer": 3, "source": None}]
    columns = replace(USUAL, instruction="question", output="answer", input="", others="ignore")
    path = write(tmp_path, "data.jsonl", as_json_lines(rows))
    examples, problems = check_rows(path, columns)
    assert [(e.instruction, e.input, e.output) for e in examples] == [("a", "", "b")]
    assert problems == {1: [f'{path}:2: "answer" must be text, is the number 3']}
    _, problems = check_rows(path, replace(columns, others="refuse"))
    assert problems[0][0].startswith(f'{path}:1: "source" is not a field of a record')
