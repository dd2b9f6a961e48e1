"""The filter: what it finds in disguise, what it leaves, and that a stream shows no more than the whole text does."""

import random

import httpx
import pytest

from instruct.core.errors import DataError, ParamsError
from instruct.serving.policy import MASK, Policy, PolicyStream, Rule, filter_text, normalise, read_policy
from instruct.serving.policy_test import read_probes, report

PERSONAL = Rule(name="e-mail", action="mask", personal="pii_email")
BOMB = Rule(name="bomb", action="block", pattern=r"\bpipe\s{0,2}bomb\b", message="No.")
NOTED = Rule(name="noted", action="flag", pattern="secret")
POLICY = Policy(rules=(PERSONAL, BOMB, NOTED))


@pytest.mark.parametrize(
    "text", ["pipe bomb", "PIPE  BOMB", "pi\u200bpe b\u00adomb", "ｐｉｐｅ ｂｏｍｂ", "pіре bоmb", "𝗽𝗶𝗽𝗲 𝗯𝗼𝗺𝗯"]
)
def test_disguises_are_seen_through(text):
    passed, stream = filter_text(POLICY, f"How to make a {text} at home", "prompts")
    assert stream.blocked == BOMB and passed == "How to make a "


def test_a_mask_cuts_in_the_text_as_it_was():
    text = "Ünï: jo＠nord.de, ан na@nord.de; someone@example.com"
    assert filter_text(POLICY, text, "answers")[0] == f"Ünï: {MASK}, ан {MASK}; someone@example.com"


def test_a_stream_shows_what_the_whole_text_shows():
    rng = random.Random(3)
    pieces = ["jo@nord.de", "pipe", " ", "bomb", "secret", "é", "\u200b", "x" * 40, "a@", "b.co", "m ", " pipe bomb"]
    blocked = 0
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=14))
        expected, whole = filter_text(POLICY, text, "answers")
        stream, got, place = PolicyStream(POLICY, "answers"), "", 0
        while place < len(text):
            size = rng.randint(1, 9)
            got += stream.push(text[place : place + size])
            assert expected.startswith(got)
            place += size
        got += stream.push("", final=True)
        assert (got, stream.blocked) == (expected, whole.blocked)
        assert set(map(id, stream.applied)) == set(map(id, whole.applied))
        blocked += stream.blocked is not None
    assert 20 < blocked < 280


def test_normal_text_is_its_own_normal_form():
    assert normalise("plain") == ("plain", [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("rules", "kind", "field"),
    [
        ("[{name: a, action: mask, pattern: 'x*'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'a.{1,900}'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: '('}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'a{0,3}'}]", ParamsError, "pattern"),
        ("[{name: a, action: drop, pattern: a}]", ParamsError, "action"),
        ("[{name: a, action: mask}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, personal: name}]", ParamsError, "personal"),
        ("[{name: a, action: mask, pattern: a, on: [everywhere]}]", ParamsError, "on"),
        ("[{name: a, action: mask, pattern: a, level: 2}]", ParamsError, "level"),
        ("{}", DataError, "list"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path, rules, kind, field):
    path = tmp_path / "policy.yaml"
    path.write_text(rules)
    with pytest.raises(kind) as caught:
        read_policy(path)
    assert str(path) in str(caught.value) and field in str(caught.value)


def test_probes_are_counted_with_exact_intervals(tmp_path):
    path = tmp_path / "probes.jsonl"
    path.write_text(
        '{"text": "pipe bomb", "found": true, "kind": "bomb"}\n'
        '{"text": "pipes and bombs", "found": true, "kind": "bomb"}\n'
        '{"text": "a pipe organ", "found": false, "kind": "bomb"}\n'
    )
    lines = list(report(POLICY, read_probes(path), tmp_path / "no-test.json"))
    assert any(line.split()[:8] == ["bomb,", "to", "be", "found", "1", "of", "2", "0.500"] for line in lines)
    assert "0.013 to 0.987" in next(line for line in lines if line.startswith("bomb, to be found"))
    assert "0 of   1" in next(line for line in lines if line.startswith("bomb, harmless"))
    assert "not checked" in lines[-1]


@pytest.mark.parametrize("row", ["{", "[]", '{"text": "a"}', '{"text": 1, "found": true}', '{"text":"a","found":1}'])
def test_a_file_that_holds_no_probes_is_refused_by_its_line(tmp_path, row):
    path = tmp_path / "probes.jsonl"
    path.write_text('{"text": "a", "found": true}\n' + row + "\n")
    with pytest.raises(DataError, match=r"probes\.jsonl:2"):
        read_probes(path)


def test_the_server_filters_prompts_and_answers(serving, tmp_path, systems, offline):
    prompt = systems["sft"].template.render("Tell me about rain.")
    answer = offline(systems["sft"], {"0": prompt})["0"]
    word = max(answer.split(), key=len)
    path = tmp_path / "policy.yaml"
    path.write_text(f"[{{name: word, action: mask, pattern: '{word}'}}, {{name: no, action: block, pattern: bomb}}]")
    one = serving(policy=str(path))
    body = {"model": "sft", "messages": [{"role": "user", "content": "Tell me about rain."}]}
    with httpx.Client(base_url=one.url, timeout=60) as raw:
        choice = raw.post("/v1/chat/completions", json=body).json()["choices"][0]
        assert choice["message"]["content"] == answer.replace(word, MASK)
        assert [rule["name"] for rule in choice["policy"]] == ["word"]
        streamed = raw.post("/v1/chat/completions", json={**body, "stream": True}).text
        assert word not in streamed and MASK in streamed
        bad = {**body, "messages": [{"role": "user", "content": "A b\u200bomb?"}]}
        assert raw.post("/v1/chat/completions", json=bad).json()["error"]["code"] == "policy_blocked"
        assert raw.post("/v1/chat/completions", json={**body, "logprobs": True}).status_code == 400
