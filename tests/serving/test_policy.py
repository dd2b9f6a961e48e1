"""The filter: what it finds in disguise, what it leaves, and that a stream shows no more than the whole text does."""

import json
import random
import re
import unicodedata

import httpx
import pytest
import yaml
from fuzz import examples
from hypothesis import given
from hypothesis import strategies as st

from instruct.core.errors import DataError, ParamsError
from instruct.quality import personal
from instruct.serving import policy as code
from instruct.serving.messages import Said, filter_chat
from instruct.serving.normal import latinised, normalise
from instruct.serving.policy import MASK, Policy, PolicyStream, Rule, filter_text, read_policy
from instruct.serving.policy_test import read_probes, report
from instruct.serving.problems import Problem
from instruct.serving.talking import Manner, Talker

PERSONAL = Rule(name="e-mail", action="mask", personal="pii_email")
BOMB = Rule(name="bomb", action="block", pattern=r"\bpipe\s{0,2}bomb\b", message="No.")
NOTED = Rule(name="noted", action="flag", pattern="secret")
POLICY = Policy(rules=(PERSONAL, BOMB, NOTED))


@pytest.mark.parametrize(
    "text",
    ["pipe bomb", "PIPE  BOMB", "pi\u200bpe b\u00adomb", "ｐｉｐｅ ｂｏｍｂ", "pіре bоmb", "𝗽𝗶𝗽𝗲 𝗯𝗼𝗺𝗯"]
    + [
        f"pi{invisible}pe bomb"
        for invisible in "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u2065\u3164\uffa0\U000e0100"
    ],
)
def test_disguises_are_seen_through(text):
    passed, stream = filter_text(POLICY, f"How to make a {text} at home", "prompts")
    assert stream.blocked == BOMB and passed == "How to make a "


WORDS = ["наркотик", "ВЗРЫВ", "βόμβα", "café", "폭탄", "übel", "危険", "क\u093cत्ल", "شقة", "naïve", "Ǻ"]


@pytest.mark.parametrize("word", WORDS)
def test_a_pattern_of_any_script_finds_its_word_however_it_is_composed(word):
    policy = Policy(rules=(Rule(name="word", action="mask", pattern=word),))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        for found in (word, word.upper(), word.lower()):
            text = f"ﬁx {unicodedata.normalize(form, found)}\u200b, please"
            for passed, stream in (filter_text(policy, text, "answers"), in_pieces(policy, text, 1)):
                assert (passed, stream.applied) == (f"ﬁx {MASK}\u200b, please", [policy.rules[0]])


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("cafe\u200b\u0301s", f"{MASK}s"),
        ("cafe\u0323\u0301", "cafe\u0323\u0301"),
        ("cafe\u0301\u0323", "cafe\u0301\u0323"),
        ("o cafe\u0301", f"o {MASK}"),
        ("café\u0301", f"{MASK}"),
        ("ｃａｆｅ\u0301.", f"{MASK}."),
        ("саfé", MASK),
    ],
)
def test_a_letter_is_cut_with_all_its_marks(text, passed):
    policy = Policy(rules=(Rule(name="word", action="mask", pattern="café"),))
    assert filter_text(policy, text, "answers")[0] == in_pieces(policy, text, 1)[0] == passed


@examples(150)
@given(
    st.text() | st.lists(st.sampled_from("aeﬁÅ각ᄀ가ㅏ\u0301\u0323\u3099か\uff9e\uff76\u0c46\u0c56\u200b")).map("".join)
)
def test_the_searched_text_is_nfkc_without_invisible_characters(text):
    normal, places = normalise(text)
    seen = "".join(one for one in text if normalise(one)[0])
    assert normal == unicodedata.normalize("NFKC", seen) and len(normal) == len(places) == len(latinised(normal))
    assert places == sorted(places) and all(normalise(text[start:end])[0] in normal for start, end in places)


def test_a_long_run_of_marks_is_composed_in_parts():
    normal, places = normalise("e" + "\u0323\u0301" * 50_000)
    assert len(normal) == len(places) == 100_000 and places[-1][1] == 100_001


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


ATOMS = [
    "a",
    "b",
    "[ab]",
    "a{1,3}",
    "b?",
    r"\b",
    r"\s",
    "$",
    "(?=b)",
    "(?!b)",
    "(?<=a)",
    "(a|bc)",
    ".{0,4}c",
    "(?:|ab)",
    "а",
    "á",
    "가",
]
PIECES = [
    "a",
    "b",
    "c",
    " ",
    "\n",
    "аb",
    "\u0301",
    "a\u0301",
    "ᄀ",
    "\u1161",
    "\u200b",
    "\u034f",
    "ﬀ",
    "ｂ",
    "㏂",
    "é",
    "eyJ",
    "-",
    ".",
    "x" * 60,
]
PERSONS = [
    "jo@nord.de",
    "an@",
    "nord.de",
    "sk-abcdEFGH1234ijklMNOPqr",
    "eyJhbGciOiJIUzI1",
    "+44 20 7946 0958",
    "a@b.co",
]


@st.composite
def policies(draw):
    """One to three rules; what is no pattern of a policy is left out."""
    rules = [Rule(name="e-mail", action=draw(st.sampled_from(["mask", "flag"])), personal="pii_email")]
    if draw(st.booleans()):
        kinds = st.sampled_from(personal.KINDS)
        rules = [Rule(name="personal", action=draw(st.sampled_from(["mask", "block"])), personal=draw(kinds))]
    for place in range(draw(st.integers(0, 2))):
        pattern = "".join(draw(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=4)))
        action = draw(st.sampled_from(["mask", "mask", "flag", "block"]))
        try:
            rules.append(Rule(name=str(place), action=action, pattern=pattern))
        except ParamsError:
            continue
    return Policy(rules=tuple(rules[draw(st.integers(0, len(rules) - 1)) :]))


@examples(150)
@given(policies(), st.lists(st.sampled_from(PIECES + PERSONS), max_size=40), st.data())
def test_a_stream_shows_what_the_whole_text_shows_at_every_split(policy, pieces, data):
    text = "".join(pieces)
    expected, whole = filter_text(policy, text, "answers")
    stream, got, place = PolicyStream(policy, "answers"), "", 0
    while place < len(text):
        size = data.draw(st.integers(1, 90))
        got += stream.push(text[place : place + size])
        assert expected.startswith(got)
        place += size
    got += stream.push("", final=True)
    assert (got, bool(stream.blocked)) == (expected, bool(whole.blocked))
    assert set(map(id, stream.applied)) == set(map(id, whole.applied))


@examples(150)
@given(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=4), st.lists(st.sampled_from(PIECES), max_size=30))
def test_a_pattern_is_found_where_python_finds_it(atoms, pieces):
    try:
        rule = Rule(name="a", action="flag", pattern="".join(atoms))
    except ParamsError:
        return
    normal, places = normalise("".join(pieces))
    texts = (normal, latinised(normal))
    spans = {one.span() for text in texts for one in rule._compiled.finditer(text) if one.group()}
    found = Policy(rules=(rule,)).find("".join(pieces), "answers")
    assert {(one.start, one.end) for one in found} == {(places[a][0], places[b - 1][1]) for a, b in spans}
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("word", ["word ", "wörd ", "jo@nord.de "])
def test_a_stream_normalises_and_searches_only_what_is_new_and_its_last_letter(monkeypatch, word):
    count, lag, work = 2000, 140, {"normalised": 0, "searched": 0}
    normal = code.normalise

    def normalise(text):
        work["normalised"] += len(text)
        return normal(text)

    def counted(kind):
        spans = kind.spans

        def search(self, text, before):
            work["searched"] += (len(text) - self.at) * (self.at < before)
            return spans(self, text, before)

        monkeypatch.setattr(kind, "spans", search)

    monkeypatch.setattr(code, "normalise", normalise)
    counted(code._PatternSearch)
    counted(personal.Search)
    stream = PolicyStream(POLICY, "answers")
    for _ in range(count):
        stream.push(word)
    stream.push("", final=True)
    assert work["normalised"] == count * (len(word) + 1)
    assert work["searched"] <= 5 * (count + 1) * (lag + len(word)), "five searches; the lag, and what is new"


def in_pieces(policy, text, size=3):
    """What a stream shows of a text, and the stream."""
    stream = PolicyStream(policy, "answers")
    shown = [stream.push(text[place : place + size]) for place in range(0, len(text), size)]
    return "".join([*shown, stream.push("", final=True)]), stream


def test_a_block_counts_inside_of_what_another_rule_masks():
    policy = Policy(
        rules=(
            Rule(name="call", action="mask", pattern=r"call me at \d{1,9}"),
            Rule(name="no calls", action="block", pattern="call me"),
            Rule(name="at", action="flag", pattern=r"at \d"),
        )
    )
    for text, passed in (("Now call me at 123, please", "Now "), ("Now I call", "Now I call")):
        whole, stream = filter_text(policy, text, "prompts")
        assert (whole, bool(stream.blocked)) == (passed, passed != text)
        assert in_pieces(policy, text)[0] == passed
    whole, stream = filter_text(Policy(rules=(policy.rules[0], policy.rules[2])), "call me at 123", "prompts")
    assert (whole, [one.name for one in stream.applied]) == (MASK, ["call", "at"])


def test_a_pattern_behind_a_lookbehind_may_match_nothing():
    policy = Policy(rules=(Rule(name="password", action="mask", pattern=r"(?<=password: )\S{0,40}"),))
    for text, shown in (("password:  none", "password:  none"), ("password: x, y", f"password: {MASK} y")):
        assert filter_text(policy, text, "answers")[0] == in_pieces(policy, text)[0] == shown


@pytest.mark.parametrize("pattern", [r"code(?= \w{0,20} red)", r"code(?! \w{0,20} red)"])
def test_a_stream_waits_for_what_a_pattern_looks_ahead_at(pattern):
    policy = Policy(rules=(Rule(name="code", action="mask", pattern=pattern),))
    for text in ("the code absolutely red, as said before and after", "the code absolutely green, as said"):
        assert in_pieces(policy, text)[0] == filter_text(policy, text, "answers")[0]


def test_a_stream_shows_no_part_of_a_long_web_token():
    token = f"eyJhbGciOiJIUzI1NiJ9.eyJ{'c3ViIjoiMTIzNDU2Nzg5MCJ9' * 20}.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    policy = Policy(rules=(Rule(name="keys", action="mask", personal="pii_key"),))
    text = f"Your token is {token}, keep it. {'It is long. ' * 20}"
    assert in_pieces(policy, text)[0] == filter_text(policy, text, "answers")[0] == text.replace(token, MASK)


IBAN, CARD, PHONE = "DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111", "+44 20 7946 0958"
SLACK, GITHUB = "xoxb-123456789012-abcdefGHIJKL", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
GITLAB, AWS, OTHER = "glpat-abcdEFGH1234ijklMNOP", "AKIAQWERTYUIOPASDFGH", "sk-abcdEFGH1234ijklMNOPqr"
GOOGLE = "AIzaabcdefghijklmnopqrstuvwxyz012345678"


@pytest.mark.parametrize("first_last", [1, -1])
@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        ("pii_card", (IBAN, CARD)),
        ("pii_key", (SLACK, GITHUB)),
        ("pii_key", (GITLAB, AWS)),
        ("pii_key", (OTHER, GOOGLE)),
        ("pii_email", ("jo@nord.de", "an@nord.de")),
        ("pii_phone", (PHONE, "212-736-5000")),
    ],
)
def test_personal_data_is_found_in_any_order(kind, pair, first_last):
    first, second = pair[::first_last]
    text = f"It is {first} or {second} today."
    for action, shown in (("mask", f"It is {MASK} or {MASK} today."), ("block", "It is ")):
        policy = Policy(rules=(Rule(name="personal", action=action, personal=kind),))
        assert in_pieces(policy, text)[0] == filter_text(policy, text, "answers")[0] == shown


def test_a_key_that_another_one_runs_into_is_masked_to_its_end():
    token = "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.dozjgNryP4J3jVmN"
    policy = Policy(rules=(Rule(name="keys", action="mask", personal="pii_key"),))
    assert filter_text(policy, f"Use {OTHER}-{token}.", "answers")[0] == f"Use {MASK}."


def test_addresses_that_touch_are_all_masked():
    assert filter_text(POLICY, "jo@nord.de+an@nord.de", "answers")[0] == MASK * 2


def test_a_stream_shows_no_part_of_a_long_address():
    address = f"{'jo' * 20}@{'.'.join(['sub' * 20] * 3)}.de"
    text = f"Write to {address}, please. {'It is long. ' * 20}"
    assert len(address) > 220
    assert in_pieces(POLICY, text)[0] == filter_text(POLICY, text, "answers")[0] == text.replace(address, MASK)


@pytest.mark.parametrize("action", ["mask", "block", "flag"])
@pytest.mark.parametrize(
    ("before", "text", "passed"),
    [
        ("I say Hello", " Royal, now", {"mask": f"{MASK}, now", "block": ""}),
        ("Hello", "\nroyal", {"mask": MASK, "block": ""}),
        ("Hello royal", " house", {}),
        ("Hello", " royals, hello royal!", {"mask": f"{MASK}s, {MASK}!", "block": ""}),
        ("A hello roy", "\u0430l", {"mask": MASK, "block": ""}),
        ("", "Hello royal.", {"mask": f"{MASK}.", "block": ""}),
        ("Hello" * 300, " there", {}),
    ],
)
def test_what_goes_on_from_a_prompt_is_filtered_as_one_text_with_it(before, text, passed, action):
    policy = Policy(rules=(Rule(name="royal", action=action, pattern=r"hello\s{0,2}royal"),))
    for size in (1, 3, 99):
        stream = PolicyStream(policy, "answers", before=before)
        got = "".join(stream.push(text[place : place + size]) for place in range(0, len(text), size))
        got += stream.push("", final=True)
        assert got == passed.get(action, text)
        assert bool(stream.applied) == bool(passed) and bool(stream.blocked) == (bool(passed) and action == "block")


def test_an_echo_is_filtered_as_one_text_with_its_prompt(serving, tmp_path, systems, offline):
    prompt = "Tell me about rain"
    answer = offline(systems["sft"], {"0": prompt}, temperature=0.0)["0"]
    path = tmp_path / "policy.yaml"
    rule = {"name": "across", "action": "block", "pattern": re.escape(f"rain{answer}"[:8])}
    body = {"model": "sft", "prompt": prompt, "temperature": 0, "max_tokens": 12}
    path.write_text(yaml.safe_dump([rule]))
    with httpx.Client(base_url=serving(policy=str(path)).url, timeout=60) as raw:
        whole = raw.post("/v1/completions", json={**body, "echo": True}).json()["choices"][0]
        assert (whole["text"], whole["finish_reason"]) == (prompt, "content_filter")
        assert [one["name"] for one in whole["policy"]] == ["across"]
        pieces = raw.post("/v1/completions", json={**body, "echo": True, "stream": True}).text.split("\n\n")[:-2]
        assert "".join(json.loads(one[6:])["choices"][0]["text"] for one in pieces) == prompt
        assert raw.post("/v1/completions", json=body).json()["choices"][0]["finish_reason"] == "length"


def said(*contents):
    return [Said(role="assistant" if place % 2 else "user", content=one) for place, one in enumerate(contents)]


@pytest.mark.parametrize(("question", "input"), [("Make a pipe", "bomb"), ("Make", "a pipe bomb"), ("A pipe bomb", "")])
def test_a_question_and_its_input_are_blocked_as_the_model_reads_them(question, input):
    with pytest.raises(Problem) as caught:
        filter_chat(POLICY, said("Hi", "Hello", question), input)
    assert caught.value.code == "policy_blocked" and BOMB.name in str(caught.value)


@pytest.mark.parametrize(
    ("question", "input", "passed"),
    [
        ("Is it red", "wine, or beer?", (f"Is it {MASK}", ", or beer?")),
        ("Is it red wine?", "red wine", (f"Is it {MASK}?", MASK)),
        ("Is it red\n", "\nwine", (f"Is it {MASK}", "")),
        ("Is it red", "\n\nale", ("Is it red", "\n\nale")),
        ("Is it", "wine", ("Is it", "wine")),
        ("Is it\n", "here?", ("Is it\n", "here?")),
        ("Is it", "green?", (f"Is it{MASK}", "?")),
        ("Is it red", "", ("Is it red", "")),
    ],
)
def test_what_a_question_and_its_input_say_together_is_masked_across_both(question, input, passed):
    policy = Policy(rules=(Rule(name="wine", action="mask", pattern=r"red\s{0,4}wine|\ngreen"),))
    got, rest = filter_chat(policy, said(question), input)
    assert (got[0].content, rest) == passed
    assert filter_chat(None, said(question), input) == (said(question), input)


def test_ask_and_the_server_filter_a_question_and_its_input_together(serving, systems, tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("[{name: bomb, action: block, pattern: 'pipe\\s{0,2}bomb'}]")
    manner = Manner(max_tokens=2, temperature=0, seed=1)
    with pytest.raises(Problem, match="policy: bomb"):
        list(Talker(systems["sft"]).say(said("Make a pipe"), manner, input="bomb", policy=read_policy(path)))
    body = {"model": "sft", "messages": [{"role": "user", "content": "Make a pipe"}], "input": "bomb"}
    got = httpx.post(f"{serving(policy=str(path)).url}/v1/chat/completions", json=body, timeout=60)
    assert got.json()["error"]["code"] == "policy_blocked"


def test_rules_for_prompts_alone_leave_answers_as_they_are():
    policy = Policy(rules=(Rule(name="no", action="block", pattern="bomb", on=("prompts",)),))
    assert in_pieces(policy, "A bomb, you say?")[0] == "A bomb, you say?"
    assert filter_text(policy, "A bomb, you say?", "prompts")[0] == "A "


def test_normal_text_is_its_own_normal_form():
    assert normalise("plain") == ("plain", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)])


@pytest.mark.parametrize(
    ("rules", "kind", "field"),
    [
        ("[{name: a, action: mask, pattern: 'x*'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'a.{1,900}'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'a(?=.*b)'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: '('}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'a{0,3}'}]", ParamsError, "pattern"),
        ("[{name: a, action: mask, pattern: 'cafe\u0301'}]", ParamsError, "café"),
        ("[{name: a, action: mask, pattern: '！危険'}]", ParamsError, "!危険"),
        ("[{name: a, action: mask, pattern: 'x(y|（z）)'}]", ParamsError, r"\(z\)"),
        ("[{name: a, action: mask, pattern: 'x[０-９]{1,3}'}]", ParamsError, "write 0 "),
        ("[{name: a, action: mask, pattern: 'a[^ﬁ]b'}]", ParamsError, "fi"),
        ("[{name: a, action: mask, pattern: 'می\u200cخواهم'}]", ParamsError, "میخواهم"),
        ("[{name: a, action: mask, pattern: 'a\\u200b?b'}]", ParamsError, "200b"),
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


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("secret[ \u00a0]word", "a secret\u00a0word"), ("don['’´]t", "a don’t"), ("[e\u0301]x", "a ex")],
)
def test_a_set_that_finds_text_by_one_of_its_members_is_a_pattern(tmp_path, pattern, text):
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps([{"name": "a", "action": "mask", "pattern": pattern}]))
    assert filter_text(read_policy(path), text, "prompts")[0] == f"a {MASK}"


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


def test_a_probe_ends_where_its_json_does(tmp_path):
    (tmp_path / "probes.jsonl").write_text('{"text": "one\u2028line", "found": true}\n', encoding="utf-8")
    assert [one.text for one in read_probes(tmp_path / "probes.jsonl")] == ["one\u2028line"]


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
