"""Verdicts from a server of which a third of the answers fail, in some fifty ways: none lost, wrong or twice."""

import logging
from collections import Counter

import pytest
from servers.fault_server import (
    BROKEN,
    CONTENTS,
    FAULTS,
    KEY,
    ODD,
    REFUSALS,
    SILENT,
    TRANSIENT,
    FaultServer,
    right_text,
    score_of,
)
from servers.settings import SCORE, calls, ollama_params, openai_params, question

from instruct.evaluation.judges.parse import parse_score
from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Server
from instruct.servers.cache import ReplyCache
from instruct.servers.ollama import Ollama
from instruct.servers.openai import OpenAI

RETRIES = 3
WORKERS = 16
# All waits together outlast a moment in which nobody listens, also on a busy machine.
PATIENT = calls(retries=RETRIES, read=3.0, total=4.0, backoff=0.03)
QUICK = calls(retries=RETRIES, read=0.3, total=0.5, backoff=0.002)  # where only one is under way


def client(kind: str, server: FaultServer, waits=PATIENT) -> Server:
    if kind == "ollama":
        return Ollama(ollama_params(server.url, model="judge", workers=WORKERS), waits)
    return OpenAI(openai_params(f"{server.url}/v1", workers=WORKERS), waits)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_none_lost_none_wrong_none_counted_twice(kind, tmp_path):
    check_run(kind, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_the_books_of_two_thousand_verdicts_are_exact_whatever_happens(kind, tmp_path):
    seen = check_run(kind, 2000, tmp_path)
    assert len(seen) >= 30 and set(seen) == {"right", *FAULTS}  # each kind happened


def check_run(kind, count, tmp_path) -> Counter[str]:
    """One run with faults and one without; what the server sent the first time, by kind."""
    requests = [question(f"Judge item {item}.", schema=SCORE) for item in range(count)]
    with FaultServer(rate=0.4) as server, ReplyCache(tmp_path / "replies.sqlite") as cache:
        judge = client(kind, server)
        replies = ask_all(judge, requests, cache=cache, workers=WORKERS)
        first = {item: list(ledger) for item, ledger in server.ledger.items()}
        check_against_ledger(replies, first, kind)
        fine = [reply for reply in replies if not reply.problem]
        assert cache.count() == len(fine) > count * 0.7

        # What failed is asked again, what did not is not, and one healthy pass leaves nothing open.
        server.rate = 0.0
        again = ask_all(judge, requests, cache=cache, workers=WORKERS)
        judge.close()
        for item, (before, after) in enumerate(zip(replies, again, strict=True)):
            asked = len(server.ledger[item]) - len(first.get(item, []))
            assert asked == (1 if before.problem else 0)
            assert (after.attempts == 0) == (not before.problem)
            assert after.text == (right_text(item) if before.problem else before.text)
            assert after.problem == ""
        assert cache.count() == count
        cache.export(tmp_path / "replies.jsonl")
        assert KEY not in (tmp_path / "replies.jsonl").read_text(encoding="utf-8") or kind == "ollama"
    return Counter(fault for sent in first.values() for fault in sent)


def check_against_ledger(replies: list[Reply], ledger: dict[int, list[str]], kind: str) -> None:
    """Each reply is exactly what the server sent last for that item.

    There may be more attempts than the server knows: the ones that were refused.
    """
    assert set(ledger) <= set(range(len(replies)))
    for item, reply in enumerate(replies):
        sent = ledger.get(item, ["refuse"])
        assert len(sent) <= reply.attempts <= RETRIES + 1, (item, sent, reply)
        assert all(fault in TRANSIENT for fault in sent[:-1]), (item, sent, reply)
        check_reply(item, sent[-1], reply, kind)


def check_reply(item: int, fault: str, reply: Reply, kind: str) -> None:
    told = (item, fault, reply)
    assert reply.problem.isprintable(), told
    if fault == "right" or fault in ODD:
        assert (reply.text, reply.problem) == (right_text(item), ""), told
        assert parse_score(reply.text) == score_of(item)
    elif fault in CONTENTS:
        text, problem = CONTENTS[fault]
        if kind == "openai" and KEY in text:  # Ollama's client has no key
            text, problem = "", True
        assert (reply.text, bool(reply.problem), reply.answered) == (text[:20_000], problem, True), told
    elif fault in BROKEN:
        assert reply.text == right_text(item) and reply.problem and reply.answered, told
    else:
        assert (reply.text, reply.answered) == ("", False) and reply.problem, told
        assert reply.attempts == (RETRIES + 1 if fault in TRANSIENT else reply.attempts), told


@pytest.mark.parametrize("fault", dict.fromkeys(FAULTS))
def test_every_fault_is_survived_by_itself(fault, monkeypatch):
    kind = "ollama" if len(fault) % 2 else "openai"
    with FaultServer() as server:
        monkeypatch.setattr(server, "fault", lambda item, attempt: fault if attempt == 0 else "right")
        judge = client(kind, server, QUICK if fault in SILENT else PATIENT)
        reply = judge.ask(question("item 7"))
        judge.close()
    if fault in TRANSIENT:
        assert server.ledger[7] == [fault, "right"] and reply.text == right_text(7)
        assert reply.attempts == 2 or (reply.attempts > 2 and fault == "refuse")  # as often as nobody listened
    else:
        assert server.ledger[7] == [fault]
        check_reply(7, fault, reply, kind)


@pytest.mark.parametrize("kind", ["ollama", "openai"])
@pytest.mark.parametrize("fault", ["surplus", "late surplus", "half surplus", "trailers", "100 continue"])
def test_no_answer_is_taken_for_that_to_another_question(kind, fault, monkeypatch):
    with FaultServer() as server:
        monkeypatch.setattr(server, "fault", lambda item, attempt: fault)
        judge = client(kind, server)
        replies = ask_all(judge, [question(f"item {item}") for item in range(60)], cache=None, workers=2)
        judge.close()
    assert [reply.text for reply in replies] == [right_text(item) for item in range(60)]


@pytest.mark.parametrize("kind", ["ollama", "openai"])
@pytest.mark.parametrize("fault", [*REFUSALS, "204", "408"])
def test_one_refusal_does_not_end_a_run(kind, fault, monkeypatch):
    with FaultServer() as server:
        monkeypatch.setattr(server, "fault", lambda item, attempt: fault if item == 3 and attempt == 0 else "right")
        judge = client(kind, server)
        replies = ask_all(judge, [question(f"item {item}") for item in range(20)], cache=None, workers=2)
        judge.close()
    assert [item for item, reply in enumerate(replies) if reply.problem] == ([3] if fault in REFUSALS else [])


def test_progress_is_told_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("instruct.core.progress.LOG_S", 0.0)
    with FaultServer() as server, caplog.at_level(logging.INFO):
        judge = client("ollama", server)
        ask_all(judge, [question(f"item {item}") for item in range(4)], cache=None, workers=2, unit="verdict")
        judge.close()
    told = [message.split(",")[0] for message in caplog.messages if "verdict" in message]
    assert told == [f"{n} of 4 verdicts" for n in (1, 2, 3, 4)]
