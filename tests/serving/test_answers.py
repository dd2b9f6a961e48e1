"""How events of the engine become an answer: none may leave its client waiting."""

import asyncio
from types import SimpleNamespace

import pytest

from instruct.generation.rows import Score
from instruct.serving.answers import Shape, completion_scores
from instruct.serving.app import Stream
from instruct.serving.asking import Asked, Choice
from instruct.serving.lanes import Event
from instruct.serving.metrics import Metrics
from instruct.serving.policy import PolicyStream
from instruct.serving.problems import Problem
from instruct.serving.stream import TextStream

ENGINE = SimpleNamespace(unfinished=0, active=0, alive=False)


@pytest.fixture
def asked(systems):
    """A request to an engine that has said nothing yet."""
    system = systems["sft"]
    one = Asked(ENGINE, system)
    stream, policy = TextStream(system.tokenizer, (), strip=False), PolicyStream(None, "answers")
    choice = Choice(index=0, ids=[1], prompt="", stream=stream, policy=policy)
    one.add(choice, params=system.params, stop_strings=())
    return one


def test_an_engine_that_fails_ends_also_an_answer_that_the_policy_has_ended(asked):
    asked.choices[0].reason = "content_filter"
    asked._jobs[0].deliver(Event(error="no memory"))

    async def listen():
        return [news async for news in asked.news()]

    assert asyncio.run(asyncio.wait_for(listen(), 20)) == []


def test_an_engine_that_has_stopped_accepts_nothing(asked):
    with pytest.raises(Problem) as raised:
        asked.begin()
    assert raised.value.status == 503


@pytest.mark.parametrize("chat", [True, False])
def test_the_time_to_the_first_token_ends_with_the_first_token(asked, chat):
    """The client hangs up after it, so that no second one comes."""
    metrics, sent = Metrics(ENGINE), asyncio.Event()
    asked._jobs[0].deliver(Event(tokens=tuple(asked.system.tokenizer.encode("One"))))

    async def receive():
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if b"One" in message.get("body", b""):
            sent.set()

    async def answer():
        stream = Stream(asked, Shape(asked, chat=chat, best=None), metrics, usage=False)
        await stream({"type": "http"}, receive, send)

    asyncio.run(asyncio.wait_for(answer(), 20))
    assert 'instruct_first_token_seconds_count{model="sft"} 1.0' in metrics.text().decode().splitlines()


def test_of_tokens_with_one_spelling_the_likeliest_keeps_it_unless_another_was_taken(asked):
    """Parts of characters are all spelled U+FFFD, which a mapping holds once."""
    tokenizer = asked.system.tokenizer
    parts = [tokenizer.encode(character)[0] for character in "\u6771\u8a9e\U0001f642"]
    assert len(set(parts)) == 3 and {tokenizer.decode([part]) for part in parts} == {"\ufffd"}
    (plain,) = tokenizer.encode("One")
    best = ((parts[0], -0.5), (parts[1], -1.5), (plain, -2.5))
    scores = [Score(token=plain, logprob=-2.5, best=best), Score(token=parts[2], logprob=-9.0, best=best)]
    told = completion_scores(tokenizer, scores, first=None)["top_logprobs"]
    assert told == [{"\ufffd": -0.5, "One": -2.5}, {"\ufffd": -9.0, "One": -2.5}]
