import json
import os
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from servers.settings import BAD_COUNTS, BAD_NUMBERS

from instruct.core.errors import ServerError
from instruct.servers.base import Reply, Token
from instruct.servers.cache import ReplyCache, cache_file

TOKENS = (Token(text="8", logprob=-0.125, top=(("8", -0.125), ("9", -2.5))), Token(text="5", logprob=-1.0))
TEXT = 'Scöre: "85"\n\u2028 end \0'
WRITER = """
import sys
from hashlib import sha256
from pathlib import Path
from instruct.servers.base import Reply
from instruct.servers.cache import ReplyCache
name = sys.argv[2]
with ReplyCache(Path(sys.argv[1])) as cache:
    for number in range(300):
        kept = cache.put(sha256(str(number).encode()).hexdigest(), Reply(text=f"{name} {number}"), "judge")
        print(kept.text, flush=True)
"""


def key(name) -> str:
    return sha256(str(name).encode()).hexdigest()


@pytest.fixture
def cache(tmp_path):
    with ReplyCache(tmp_path / "new" / "replies.sqlite") as cache:
        yield cache


def test_a_reply_comes_back_as_it_was(cache):
    reply = Reply(text=TEXT, stop="stop", logprobs=TOKENS, prompt_tokens=7, attempts=3)
    assert cache.put(key(1), reply, "judge") == reply
    found = cache.get([key(1), key(2)])
    expected = Reply(text=TEXT, stop="stop", logprobs=TOKENS, prompt_tokens=7, attempts=0)
    assert found == {key(1): expected}


def test_more_keys_than_one_query_holds(cache):
    for number in range(1201):
        cache.put(key(number), Reply(text=str(number)), "judge")
    found = cache.get(key(number) for number in range(1300))
    assert {k: reply.text for k, reply in found.items()} == {key(n): str(n) for n in range(1201)}


def test_the_first_reply_stays(cache, tmp_path):
    with ReplyCache(cache.path) as other:
        other.put(key(1), Reply(text="first"), "judge")
    assert cache.put(key(1), Reply(text="second"), "judge").text == "first"
    assert cache.count() == 1


def test_a_reply_with_a_problem_is_never_kept(cache):
    with pytest.raises(AssertionError):
        cache.put(key(1), Reply(text="", problem="the reply is empty"), "judge")
    assert cache.count() == 0


def run_writer(path: Path, name: str) -> subprocess.Popen:
    source = str(Path(__file__).parents[2] / "src")
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, path, name], env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_several_processes_write_at_once_and_agree(cache):
    writers = [run_writer(cache.path, name) for name in "ABC"]
    outputs = []
    for writer in writers:
        out, err = writer.communicate(timeout=60)
        assert (writer.returncode, err) == (0, "")
        outputs.append(out.splitlines())
    assert outputs[0] == outputs[1] == outputs[2]  # each was told what is there, whoever wrote it
    assert cache.count() == 300
    kept = cache.get(key(number) for number in range(300))
    assert [kept[key(number)].text for number in range(300)] == outputs[0]


def test_a_killed_process_leaves_all_that_it_kept(cache):
    writer = run_writer(cache.path, "A")
    assert writer.stdout and writer.stderr
    said = [writer.stdout.readline().strip() for _ in range(20)]
    writer.kill()
    said += writer.stdout.read().split("\n")[:-1]
    writer.wait()
    writer.stdout.close(), writer.stderr.close()
    assert {f"A {n}" for n in range(20)} <= {reply.text for reply in cache.get(key(n) for n in range(300)).values()}
    assert cache.count() >= len(said)


def test_an_export_is_the_same_bytes_whatever_the_order(cache, tmp_path):
    with ReplyCache(tmp_path / "other.sqlite") as other:
        for number in range(20):
            cache.put(key(number), Reply(text=f"{number} {TEXT}", logprobs=TOKENS), "judge")
            other.put(key(19 - number), Reply(text=f"{19 - number} {TEXT}", logprobs=TOKENS), "judge")
        assert cache.export(tmp_path / "a.jsonl") == other.export(tmp_path / "b.jsonl") == 20
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["key"] for line in lines] == sorted(key(number) for number in range(20))


def test_what_was_exported_is_taken_in_and_does_not_replace(cache, tmp_path):
    cache.put(key(1), Reply(text=TEXT, stop="stop", logprobs=TOKENS, prompt_tokens=7), "judge")
    cache.put(key(2), Reply(text="theirs"), "judge")
    cache.export(tmp_path / "a.jsonl")
    with ReplyCache(tmp_path / "other.sqlite") as other:
        other.put(key(2), Reply(text="ours"), "judge")
        assert other.load(tmp_path / "a.jsonl") == (1, 2)
        assert other.load(tmp_path / "a.jsonl") == (0, 2)
        assert other.get([key(1)]) == cache.get([key(1)])
        assert other.get([key(2)])[key(2)].text == "ours"


GOOD = {"key": key(1), "model": "m", "text": "t", "stop": "stop", "prompt_tokens": 1, "logprobs": None}


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[]",
        "[" * 50_000,
        "{}",
        json.dumps(GOOD | {"key": "abc"}),
        json.dumps(GOOD | {"key": 5}),
        json.dumps(GOOD | {"text": None}),
        json.dumps(GOOD | {"prompt_tokens": "1"}),
        json.dumps(GOOD | {"prompt_tokens": True}),
        *(json.dumps(GOOD | {"prompt_tokens": number}) for number in BAD_COUNTS),
        *(json.dumps(GOOD | {"logprobs": [["a", number, []]]}) for number in BAD_NUMBERS),
        *(json.dumps(GOOD | {"logprobs": [["a", -1.0, [["b", number]]]]}) for number in BAD_NUMBERS),
        '{"prompt_tokens": ' + "9" * 5000 + "}",
        json.dumps(GOOD | {"text": ""}),
        json.dumps(GOOD | {"text": " \n"}),
        json.dumps(GOOD | {"text": "half \ud800"}),
        json.dumps(GOOD | {"text": "x" * 100_001}),
        json.dumps(GOOD | {"stop": "length"}),
        json.dumps(GOOD | {"stop": "\x1b[31m"}),
        json.dumps(GOOD | {"stop": None}),
        json.dumps(GOOD | {"model": "\udfff"}),
        json.dumps(GOOD | {"model": 5}),
        json.dumps(GOOD | {"logprobs": [["\ud800", -1.0, []]]}),
        json.dumps(GOOD | {"logprobs": [[5, -1.0, []]]}),
        json.dumps(GOOD | {"logprobs": [["a", True, []]]}),
        json.dumps(GOOD | {"logprobs": [["a", "-1.0", []]]}),
        json.dumps(GOOD | {"logprobs": 5}),
        json.dumps(GOOD | {"logprobs": {"a": 1}}),
        json.dumps(GOOD | {"logprobs": [["a", "b", []]]}),
        json.dumps(GOOD | {"logprobs": [1]}),
        json.dumps(GOOD | {"more": 1}),
    ],
)
def test_a_file_that_is_no_export_is_refused_whole(cache, tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ServerError, match=r"a\.jsonl:2: ") as error:
        cache.load(path)
    assert cache.count() == 0 and len(str(error.value).splitlines()) == 1


GOOD_ROW = (key(1), "m", '{"score": 85}', "stop", 7, None)


@pytest.mark.parametrize(
    "place, value",
    [
        (2, ""),
        (2, b"85"),
        (3, "length"),
        (3, 5),
        (4, -1),
        (4, 2**40),
        (4, 0.5),
        (4, "x"),
        (5, "no JSON"),
        (5, b"\xff"),
        (5, "[" * 50_000),
        (5, "5"),
        (5, '[["a", NaN, []]]'),
        (5, '[["a", 1e400, []]]'),
        (5, '[["a", 100000.0, []]]'),
        (5, '[["a", -1.0, [["b", Infinity]]]]'),
        (5, '[["a", -1' + "0" * 400 + ", []]]"),
        (5, '[["\\ud800", -1.0, []]]'),
    ],
)
def test_a_row_that_is_no_reply_is_asked_for_again_and_replaced(cache, tmp_path, caplog, place, value):
    row = list(GOOD_ROW)
    row[place] = value
    with sqlite3.connect(cache.path) as database:
        database.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?)", row)
    database.close()
    cache.put(key(2), Reply(text="fine"), "judge")
    assert cache.export(tmp_path / "a.jsonl") == 1
    assert cache.put(key(1), Reply(text="new"), "judge").text == "new"
    assert {k: reply.text for k, reply in cache.get([key(1), key(2)]).items()} == {key(1): "new", key(2): "fine"}
    assert str(cache.path) in caplog.text


def test_replies_that_an_earlier_mask_edited_are_asked_for_again_once(tmp_path):
    path = tmp_path / "replies.sqlite"
    masked, token = Reply(text="Then the cup is ***."), Token(text="***", logprob=-1.0)
    with ReplyCache(path) as cache:
        cache.put(key(1), masked, "judge")
        cache.put(key(2), Reply(text="85", logprobs=(token,)), "judge")
        cache.put(key(3), Reply(text="**85**", logprobs=TOKENS), "judge")
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA application_id=0")  # as in a file from before
    database.close()
    with ReplyCache(path) as cache:
        assert set(cache.get([key(1), key(2), key(3)])) == {key(3)}
        cache.put(key(1), masked, "judge")
    with ReplyCache(path) as cache:
        assert cache.get([key(1)])[key(1)].text == masked.text  # the model's own words


def test_bytes_that_are_not_utf8_are_one_lost_reply_and_no_crash(cache):
    cache.put(key(1), Reply(text="fine"), "judge")
    with sqlite3.connect(cache.path) as database:
        database.execute("INSERT INTO replies VALUES (?, 'm', CAST(X'38FF35' AS TEXT), 'stop', 1, NULL)", (key(2),))
    database.close()
    assert set(cache.get([key(1), key(2)])) == {key(1)}
    assert cache.count() == 1


@pytest.mark.parametrize("column", ["key", "model"])
@pytest.mark.parametrize("value", ["CAST(X'FF' AS TEXT)", "X'FF'"])
def test_a_row_whose_key_or_model_is_no_text_is_left_out_of_an_export(cache, tmp_path, column, value):
    cache.put(key(1), Reply(text="fine"), "judge")
    cache.put(key(2), Reply(text="lost"), "judge")
    with sqlite3.connect(cache.path) as database:
        database.execute(f"UPDATE replies SET {column} = {value} WHERE key = ?", (key(2),))
    database.close()
    assert cache.export(tmp_path / "a.jsonl") == 1
    with ReplyCache(tmp_path / "other.sqlite") as other:
        assert other.load(tmp_path / "a.jsonl") == (1, 1)


def test_a_file_that_cannot_be_read_is_said(cache, tmp_path):
    with pytest.raises(ServerError, match=r"missing\.jsonl"):
        cache.load(tmp_path / "missing.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ServerError, match=r"bytes\.jsonl"):
        cache.load(tmp_path / "bytes.jsonl")


def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "replies.sqlite"
    path.write_text("my thesis " * 1000)
    with pytest.raises(ServerError, match=r"replies\.sqlite"):
        ReplyCache(path)
    assert path.read_text() == "my thesis " * 1000


def test_a_cache_of_another_version_is_refused(tmp_path):
    path = tmp_path / "replies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ServerError, match=r"replies\.sqlite.*99"):
        ReplyCache(path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerError, match=r"replies\.sqlite.*INSTRUCT_REPLIES"):
        ReplyCache(tmp_path / "file" / "replies.sqlite")


def test_the_file_is_the_users_own_or_the_chosen_one(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTRUCT_REPLIES", str(tmp_path / "mine.sqlite"))
    assert cache_file() == tmp_path / "mine.sqlite"
    monkeypatch.delenv("INSTRUCT_REPLIES")
    assert cache_file().name == "replies.sqlite" and "instruct" in cache_file().parts
