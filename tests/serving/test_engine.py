"""Joining, leaving and streaming below the server: the same answers whatever else is in progress."""

import queue
import random
from dataclasses import replace

import pytest
from generation.conftest import GENERATE
from serving.conftest import ALPACA, make_system

from instruct.generation import decode
from instruct.generation.static import StaticEngine
from instruct.serving.lanes import Job, Lane, lane_for, lanes_of
from instruct.serving.loop import EngineLoop
from instruct.serving.stream import TextStream, held_back

WORDS = ["sun", "moon", "river", "tree", "bird", "stone", "cloud", "snow"]


@pytest.fixture(scope="module")
def system():
    return make_system("sft", 2)


def make_job(system, text, got, **changes):
    ids = system.tokenizer.encode(ALPACA.render(text))
    params = replace(GENERATE, **changes)
    got[text] = []
    stops = ALPACA.stop_strings
    return Job(system="sft", ids=ids, params=params, stop_strings=stops, deliver=got[text].append, seed=7)


def finish(lanes, got, jobs, *, arrive=0):
    """Turn by turn, letting `arrive` more jobs come at each; no job may be told of after its end."""
    waiting = list(jobs)
    while waiting or any(lane.busy for lane in lanes):
        for job in waiting[: arrive or len(waiting)]:
            lane_for(lanes, job.ids).waiting.append(job)
        del waiting[: arrive or len(waiting)]
        for lane in lanes:
            for job, event in lane.turn():
                job.deliver(event)
    return {text: [token for event in events for token in event.tokens] for text, events in got.items()}


def questions(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) + f" {i}" for i in range(count)]


@pytest.mark.parametrize(("slots", "cache_tokens", "arrive"), [(3, 8192, 1), (32, 700, 5), (40, 8192, 0)])
def test_joining_late_and_a_growing_cache_change_no_answer(system, offline, slots, cache_tokens, arrive):
    texts = questions(24)
    expected = offline(system, {text: ALPACA.render(text) for text in texts})
    got = {}
    lanes = lanes_of(system, slots=slots, cache_tokens=cache_tokens)
    jobs = [make_job(system, text, got) for text in texts]
    tokens = finish(lanes, got, jobs, arrive=arrive)
    assert {text: system.tokenizer.decode(ids).strip() for text, ids in tokens.items()} == expected
    assert all(sum(event.reason is not None for event in events) == 1 for events in got.values())


@pytest.mark.parametrize("last", [3, GENERATE.max_new_tokens - 1])
def test_an_endless_answer_takes_end_tokens_as_any_other(system, last):
    def answer(system, **changes):
        got = {}
        return finish(
            lanes_of(system, slots=4, cache_tokens=4096), got, [replace(make_job(system, "sun", got), **changes)]
        )

    whole = answer(system)["sun"]
    ending = replace(system, tokenizer=replace(system.tokenizer, eos_id=whole[last]))
    assert answer(ending)["sun"] == whole[: whole.index(whole[last])]
    assert answer(ending, endless=True)["sun"] == whole


def test_the_cache_stays_in_its_bound_and_is_small_again_when_idle(system):
    lane = lanes_of(system, slots=32, cache_tokens=900)[0]
    got, sizes = {}, []
    for text in questions(20):
        lane.waiting.append(make_job(system, text, got))
    while lane.busy:
        lane.turn()
        cache = lane._running.engine.cache
        sizes.append(cache.slots * cache.capacity)
    assert max(sizes) <= 900
    cache = lane._running.engine.cache
    assert cache.keys[0].shape[0] * cache.keys[0].shape[2] <= 16 * 256


def test_a_cancelled_answer_leaves_and_the_others_stay_as_they_are(system, offline):
    texts = questions(6, seed=2)
    expected = offline(system, {text: ALPACA.render(text) for text in texts})
    got = {}
    lane = lanes_of(system, slots=4, cache_tokens=4096)[0]
    jobs = [make_job(system, text, got) for text in texts]
    lane.waiting.extend(jobs)
    for _ in range(3):
        for job, event in lane.turn():
            job.deliver(event)
    jobs[1].cancelled = jobs[5].cancelled = True
    tokens = finish([lane], got, [])
    assert [got[texts[i]][-1].reason for i in (1, 5)] == ["cancelled", "cancelled"]
    for i in (0, 2, 3, 4):
        assert system.tokenizer.decode(tokens[texts[i]]).strip() == expected[texts[i]]


def test_first_tokens_are_told_before_the_next_step_and_no_prompt_waits_for_two(system):
    got = {}
    lane = lanes_of(system, slots=4, cache_tokens=4096)[0]
    lane.waiting.append(make_job(system, "sun", got))
    assert [len(event.tokens) for _, event in lane.turn()] == [1]
    lane.waiting.append(make_job(system, "moon", got))
    told = [[(job is jobs, len(event.tokens) > 0) for job, event in lane.turn()] for jobs in [None, None]]
    assert [len(one) for one in told] == [1, 1]


def test_a_pass_that_fails_ends_its_answers_and_the_next_ones_come(system, offline, monkeypatch):
    got = {}
    lane = lanes_of(system, slots=4, cache_tokens=4096)[0]
    lane.waiting.append(make_job(system, "sun", got))
    with monkeypatch.context() as patch:
        patch.setattr("instruct.generation.engine.Engine.decode", lambda *_: 1 / 0)
        for job, event in [*lane.turn(), *lane.turn()]:  # the prompt, then a step
            job.deliver(event)
    assert [bool(event.error) for event in got["sun"]] == [False, True] and not lane.busy
    tokens = finish([lane], got, [make_job(system, "moon", got)])
    expected = offline(system, {"moon": ALPACA.render("moon")})["moon"]
    assert system.tokenizer.decode(tokens["moon"]).strip() == expected


def test_answers_that_failed_are_no_longer_counted_as_waiting(system, monkeypatch):
    ended = queue.SimpleQueue()
    loop = EngineLoop({"sft": system}, slots=1, cache_tokens=4096, queue=0)
    monkeypatch.setattr("instruct.generation.engine.Engine.prefill", lambda *_, **__: 1 / 0)
    for _ in range(3):  # there is room for one at a time
        loop.submit([replace(make_job(system, "sun", {}), deliver=ended.put)])
        assert ended.get(timeout=60).error
    assert loop.unfinished == 0
    loop.close()


def test_a_prompt_that_fails_ends_all_that_came_with_it_once_each(system, monkeypatch):
    """Those that wait for room stay in line; an end that was reached before the failure counts."""
    got = {}
    lane = lanes_of(system, slots=3, cache_tokens=4096)[0]
    scored = replace(make_job(system, "sun", got), echo=True, score_only=True, best=0)
    failing = replace(make_job(system, "moon", got), echo=True, best=0)
    lane.waiting.extend([scored, failing, make_job(system, "river", got), make_job(system, "tree", got)])
    with monkeypatch.context() as patch:
        score = Lane._score
        patch.setattr(Lane, "_score", lambda self, job: 1 / 0 if job is failing else score(self, job))
        for job, event in lane.turn():
            job.deliver(event)
    ends = {text: [event.reason or event.error for event in events] for text, events in got.items()}
    failed = ["the model failed: division by zero"]
    assert ends == {"sun": ["length"], "moon": failed, "river": failed, "tree": []}
    assert got["sun"][0].prompt_scores
    assert finish([lane], got, [])["tree"]


def test_an_engine_with_a_fixed_cache_gives_the_same_answers(system, offline, monkeypatch):
    monkeypatch.setitem(decode.ENGINES, "cpu", StaticEngine)
    texts = questions(5, seed=4)
    got = {}
    lanes = lanes_of(system, slots=4, cache_tokens=4096)
    tokens = finish(lanes, got, [make_job(system, text, got) for text in texts], arrive=2)
    monkeypatch.undo()
    expected = offline(system, {text: ALPACA.render(text) for text in texts})
    assert {text: system.tokenizer.decode(ids).strip() for text, ids in tokens.items()} == expected


def test_a_long_request_does_not_starve_behind_short_ones(system):
    got = {}
    lane = Lane(system, [], slots=8, cache_tokens=400)
    lane.waiting.append(make_job(system, "first", got))
    long = make_job(system, " ".join(["river"] * 100), got, max_new_tokens=60)
    lane.waiting.extend([long, *(make_job(system, f"short {i}", got) for i in range(6))])
    begun = []
    while lane.busy:
        begun += [job for job, _ in lane.turn() if job not in begun]
    assert begun.index(long) == 1


@pytest.mark.parametrize("strip", [True, False])
def test_a_stream_gives_the_text_of_all_tokens_whatever_the_pieces(system, strip):
    rng, stops = random.Random(5), ["### End", "stop it"]
    tokenizer = system.tokenizer
    for _ in range(200):
        text = "".join(rng.choices([" ", "\n", "é", "日本", "🚀", "#", "### End", "stop", " it", "abc"], k=12))
        ids = tokenizer.encode(text) + rng.choices(range(256), k=2)  # the last may be halves of characters
        whole = tokenizer.decode(ids)
        ended = any(stop in whole for stop in stops)
        if ended:
            ids = next(ids[:i] for i in range(len(ids) + 1) if any(s in tokenizer.decode(ids[:i]) for s in stops))
        stream, given, place = TextStream(tokenizer, stops, strip=strip), "", 0
        while place < len(ids) - 1:
            size = rng.randint(1, 3)
            given += stream.push(ids[place : min(place + size, len(ids) - 1)])
            place = min(place + size, len(ids) - 1)
        stream.push_only(ids[place:])
        given += stream.finish("stop_string" if ended else "length")
        expected = tokenizer.decode(ids)
        for stop in stops:
            expected = expected.split(stop)[0]
        assert given == (expected.strip() if strip else expected)


@pytest.mark.parametrize(
    ("text", "stop", "shown"), [(" YEAR", " YEAR", ""), ("\n\n###", "\n\n###", ""), (" One\n\n###", "\n\n###", "One")]
)
def test_a_stop_string_may_begin_with_the_white_space_that_an_answer_is_stripped_of(system, text, stop, shown):
    ids = system.tokenizer.encode(text)
    stream = TextStream(system.tokenizer, [stop], strip=True)
    given = "".join(stream.push([token]) for token in ids[:-1])
    stream.push_only(ids[-1:])
    assert given + stream.finish("stop_string") == stream.text == shown


def test_nothing_is_held_back_that_cannot_be_a_stop():
    assert [held_back(text, ["</s>"]) for text in ("a", "a<", "a</", "a</s", "a</sx")] == [0, 1, 2, 3, 0]
