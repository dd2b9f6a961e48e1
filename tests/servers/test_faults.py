"""Thousands of verdicts from a server of which a third of the answers fail: none lost, none wrong, none twice."""

import logging

import pytest
from servers.fault_server import CONTENTS, SILENT, TRANSIENT, FaultServer, right_text
from servers.settings import calls, ollama_params, openai_params, question

from instruct.servers.asking import ask_all
from instruct.servers.base import Reply, Server
from instruct.servers.cache import ReplyCache
from instruct.servers.ollama import Ollama
from instruct.servers.openai import OpenAI

RETRIES = 3
WORKERS = 16
PATIENT = calls(retries=RETRIES, read=0.5, total=1.0, backoff=0.002)


def client(kind: str, server: FaultServer) -> Server:
    if kind == "ollama":
        return Ollama(ollama_params(server.url, model="judge", workers=WORKERS), PATIENT)
    return OpenAI(openai_params(f"{server.url}/v1", workers=WORKERS), PATIENT)


@pytest.mark.parametrize("kind, count", [("ollama", 800), ("openai", 400)])
def test_none_lost_none_wrong_none_counted_twice(kind, count, tmp_path):
    check_run(kind, count, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ollama", "openai"])
def test_none_of_ten_thousand_is_lost_wrong_or_counted_twice(kind, tmp_path):
    check_run(kind, 10_000, tmp_path)


def check_run(kind, count, tmp_path):
    requests = [question(f"Judge item {item}.") for item in range(count)]
    with FaultServer(rate=0.3) as server, ReplyCache(tmp_path / "replies.sqlite") as cache:
        judge = client(kind, server)
        replies = ask_all(judge, requests, cache=cache, workers=WORKERS)
        first = {item: list(ledger) for item, ledger in server.ledger.items()}
        check_against_ledger(replies, first)
        fine = [reply for reply in replies if not reply.problem]
        assert cache.count() == len(fine) > count * 0.8

        # What failed is asked again, what did not is not, and one healthy pass leaves nothing open but silence.
        server.rate = 0.0
        again = ask_all(judge, requests, cache=cache, workers=WORKERS)
        judge.close()
        for item, (before, after) in enumerate(zip(replies, again, strict=True)):
            asked = len(server.ledger[item]) - len(first.get(item, []))
            assert asked == (1 if before.problem else 0)
            assert after.cached == (not before.problem)
            assert after.text == (right_text(item) if before.problem else before.text)
            assert after.problem == ""
        assert cache.count() == count


def check_against_ledger(replies: list[Reply], ledger: dict[int, list[str]]) -> None:
    """Each reply is exactly what the server sent last for that item.

    There may be more attempts than the server knows: the ones that were refused.
    """
    assert set(ledger) <= set(range(len(replies)))
    for item, reply in enumerate(replies):
        sent = ledger.get(item, ["refuse"])
        assert len(sent) <= reply.attempts <= RETRIES + 1, (item, sent, reply)
        assert all(fault in TRANSIENT for fault in sent[:-1])
        match sent[-1]:
            case "right":
                assert (reply.text, reply.problem) == (right_text(item), "")
            case fault if fault in CONTENTS:
                text, problem = CONTENTS[fault]
                assert reply.text == text[:20_000] and bool(reply.problem) == bool(problem)
                assert problem in reply.problem and reply.answered
            case fault if fault in SILENT:
                assert (reply.text, reply.answered) == ("", False) and " within " in reply.problem
            case fault:
                assert reply.attempts == RETRIES + 1, (item, fault)
                assert (reply.text, reply.answered) == ("", False) and "after 4 attempts" in reply.problem


def test_every_fault_is_survived_by_itself(monkeypatch):
    for number, fault in enumerate((*TRANSIENT, *SILENT, *CONTENTS)):
        with FaultServer() as server:
            monkeypatch.setattr(server, "fault", lambda item, attempt, f=fault: f if attempt == 0 else "right")
            judge = client("ollama" if number % 2 else "openai", server)
            reply = judge.ask(question("item 7"))
            judge.close()
            assert server.ledger[7] == ([fault, "right"] if fault in TRANSIENT else [fault]), fault
            if fault in TRANSIENT:
                more = reply.attempts > 2 and fault == "refuse"  # as often as nobody listened
                assert reply.text == right_text(7) and (reply.attempts == 2 or more), fault


def test_progress_is_told_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("instruct.core.progress.LOG_S", 0.0)
    with FaultServer() as server, caplog.at_level(logging.INFO):
        judge = client("ollama", server)
        ask_all(judge, [question(f"item {item}") for item in range(4)], cache=None, workers=2, unit="verdict")
        judge.close()
    assert [message.split(",")[0] for message in caplog.messages] == [f"{n} of 4 verdicts" for n in (1, 2, 3, 4)]
    assert "a second" in caplog.messages[1] and "s left" in caplog.messages[1]
