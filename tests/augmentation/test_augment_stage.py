"""The stage as DVC starts it, against an OpenAI-compatible server that the test runs."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import warm
import yaml

from instruct.core.records import read_examples

ROOT = Path(__file__).parents[2]
TRAIN = [
    {"id": id_, "instruction": instruction, "input": input_, "output": output, "group": group}
    for id_, instruction, input_, output, group in [
        ("p1", "Describe the cat's day.", "", "The cat chased a mouse.", "g1"),
        ("p2", "What is 1 + 1?", "", "2", "g2"),
        ("p3", "Make it active.", "It was eaten by me.", "I ate it up.", "g3"),
    ]
]
HELD_OUT = [{"id": "t1", "instruction": "Name the tallest mountain on Earth.", "input": "", "output": "Everest."}]


class Model(ThreadingHTTPServer):
    """Answers every question by the rules of `answer` and remembers all of them."""

    def __init__(self):
        self.asked = []
        self.broken_after = None
        self.before = ""
        self.tail = ""  # of openings, which the most tokens then cut off
        super().__init__(("127.0.0.1", 0), Handler)

    def answer(self, body):
        text = body["messages"][-1]["content"]
        if text == "":
            line = ["Name the tallest mountain on earth.\n\nmore", "What is a wren?", "What is a wren?"][
                body["seed"] % 3
            ]
            return line + self.tail
        if "passive voice" in text:
            return 'Here: {"text": "A mouse was chased by the cat."}'
        if "clearer, more specific" in text:
            return "no JSON" if "1 + 1" in text else '{"instruction": "What does a cat chase?", "output": "Mice."}'
        if "best answer" in text:
            return '{"output": "2"}' if "1 + 1" in text else '{"output": "Better."}'
        return "A small bird."


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(200, {"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.broken_after is not None and len(self.server.asked) >= self.server.broken_after:
            self.reply(400, {"error": {"message": "broken"}})
            return
        self.server.asked.append(body)
        cut = self.server.tail and body["messages"][-1]["content"] == ""
        message = {"role": "assistant", "content": self.server.before + self.server.answer(body)}
        choice = {"message": message, "finish_reason": "length" if cut else "stop"}
        self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 5}})

    def reply(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def model():
    server = Model()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stage(tmp_path, model):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, rows in {"train": TRAIN, "val": HELD_OUT, "test": [{**HELD_OUT[0], "id": "t2"}]}.items():
        (tmp_path / "split").mkdir(exist_ok=True)
        (tmp_path / "split" / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")

    def run(methods, **changes):
        augment = {**params["augment"], "methods": methods, "server": "openai", **changes}
        augment["magpie"] = {**augment["magpie"], "records": 3}
        servers = json.loads(json.dumps(params["servers"]))
        servers["openai"] |= {"url": f"http://127.0.0.1:{model.server_port}/v1", "model": "tiny"}
        servers["calls"] |= {"retries": 0, "backoff": 0.0}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"augment": augment, "servers": servers}))
        env = {**os.environ, "INSTRUCT_REPLIES": str(tmp_path / "replies.sqlite")}
        return warm.python(ROOT / "src/augment.py", "split", "augmented", "metrics/augment.json", cwd=tmp_path, env=env)

    run.folder = tmp_path
    return run


def made(stage):
    return [e for e in read_examples(stage.folder / "augmented/train.json") if e.origin]


def counts(stage, method):
    values = json.loads((stage.folder / "metrics/augment.json").read_text())["methods"][method]
    return {name: count for name, count in values.items() if count}


def test_no_methods_leave_train_and_val_as_they_are_and_ask_nobody(stage, model):
    assert stage([]).returncode == 0
    for part in ("train", "val"):
        assert read_examples(stage.folder / f"augmented/{part}.json") == read_examples(
            stage.folder / f"split/{part}.json"
        )
    assert model.asked == []


def test_passive_wishes_for_it_in_the_instruction_so_that_no_prompt_has_two_answers(stage):
    done = stage(["passive"])
    assert (done.returncode, done.stderr) == (0, "")
    (child,) = made(stage)
    assert (child.parent, child.group, child.origin) == ("p1", "g1", "augment:passive")
    assert child.instruction == "Describe the cat's day. Write the answer in the passive voice."
    assert child.output == "A mouse was chased by the cat."
    assert counts(stage, "passive") == {"asked": 3, "made": 1, "unsuitable": 2}


def test_reflection_makes_a_new_question_or_replaces_the_answer(stage):
    assert stage(["reflect_instruction", "reflect_answer"], max_failed=0.6).returncode == 0
    assert counts(stage, "reflect_instruction") == {"asked": 3, "made": 1, "unparsed": 1, "unsuitable": 1}
    assert counts(stage, "reflect_answer") == {"asked": 3, "made": 2, "unchanged": 1}
    examples = read_examples(stage.folder / "augmented/train.json")
    assert [e.id for e in examples if not e.origin] == ["p2"]
    assert sorted((e.parent, e.output) for e in examples if e.origin == "augment:reflect_answer") == [
        ("p1", "Better."),
        ("p3", "Better."),
    ]


def test_magpie_keeps_out_what_resembles_a_held_out_record_and_what_it_repeats(stage, model):
    done = stage(["magpie"])
    assert (done.returncode, done.stderr) == (0, "")
    (child,) = made(stage)
    assert (child.instruction, child.output, child.parent, child.group) == (
        "What is a wren?",
        "A small bird.",
        "",
        child.id,
    )
    assert counts(stage, "magpie") == {"asked": 3, "made": 1, "leaked": 1, "repeated": 1}
    assert sorted(body["seed"] for body in model.asked if body["messages"][-1]["content"] == "") == [123, 124, 125]


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(stage, model):
    methods = ["rules", "passive", "reflect_answer", "magpie"]
    assert stage(methods).returncode == 0
    before = {p: p.read_bytes() for p in stage.folder.glob("*/*.json")}
    asked = len(model.asked)
    assert asked > 0
    assert stage(methods).returncode == 0
    assert {p: p.read_bytes() for p in stage.folder.glob("*/*.json")} == before
    assert len(model.asked) == asked


METHODS = ["passive", "reflect_answer", "magpie"]


def test_thoughts_become_no_record(stage, model):
    assert stage(METHODS).returncode == 0
    before = (stage.folder / "augmented/train.json").read_bytes()
    (stage.folder / "replies.sqlite").unlink()
    model.before = '<think>\nHm, {"output": "no"}?\n</think>\n\n'
    assert stage(METHODS).returncode == 0
    assert (stage.folder / "augmented/train.json").read_bytes() == before


@pytest.mark.parametrize("thoughts", ["<think>\nHm. ", "<think>Hm.</think><think>"])
def test_thoughts_that_do_not_end_are_no_answer(stage, model, thoughts):
    model.before = thoughts
    assert stage(METHODS, max_failed=1.0).returncode == 0
    assert made(stage) == []
    assert counts(stage, "magpie") == {"asked": 3, "unanswered": 3}


@pytest.mark.parametrize("thoughts", ["", "<think>\nHm.\n</think>\n"])
def test_an_opening_that_is_cut_off_after_its_first_line_is_asked_for_once(stage, model, thoughts):
    model.before, model.tail = thoughts, "\n\nA: it is"
    assert stage(["magpie"]).returncode == 0
    assert [one.instruction for one in made(stage)] == ["What is a wren?"]
    asked = len(model.asked)
    model.tail = "\nother"
    assert stage(["magpie"]).returncode == 0
    assert len(model.asked) == asked


def test_a_run_that_broke_goes_on_where_it_was(stage, model):
    model.broken_after = 2
    assert stage(["reflect_answer"], max_failed=0.0).returncode == 1
    assert not (stage.folder / "augmented").exists()
    model.broken_after = None
    assert stage(["reflect_answer"], max_failed=0.0).returncode == 0
    assert len(model.asked) == 3


def test_too_many_unusable_replies_are_one_message(stage):
    done = stage(["reflect_instruction"], max_failed=0.2)
    assert done.returncode == 1
    assert (
        "augment.reflect_instruction: 1 of 2 replies cannot be used (0 missing or cut off, 1 malformed" in done.stderr
    )
    assert "Traceback" not in done.stderr
