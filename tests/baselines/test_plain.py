import random
from dataclasses import replace

import pytest
from rapidfuzz import fuzz

from instruct.baselines import plain
from instruct.baselines.plain import echo, nearest
from instruct.core.records import Example, Response


def example(id_, instruction, input="", output="x"):
    return Example(id=id_, instruction=instruction, input=input, output=output, kind="k")


WORDS = ["copper", "river", "tall", "green", "house", "count", "the", "letters", "name", "city", "France", "what"]


def many(seed, count):
    draw = random.Random(seed)
    return [
        example(f"{seed}-{i}", " ".join(draw.choices(WORDS, k=6)), draw.choice(["", "a word"]), f"answer {i}")
        for i in range(count)
    ]


def test_echo_gives_the_input_else_the_instruction_and_keeps_the_record():
    asked = [example("a", "Say it.", " Hello "), example("b", " Name it. "), example("c", "Sum.", " ")]
    answers = echo(asked)
    assert [one.response for one in answers] == ["Hello", "Name it.", "Sum."]
    assert all(isinstance(one, Response) and one.stop_reason == "end_of_text" for one in answers)
    assert [(one.id, one.instruction, one.input, one.kind) for one in answers] == [
        (one.id, one.instruction, one.input, one.kind) for one in asked
    ]


@pytest.mark.parametrize("rows", [3, 256])
def test_nearest_gives_the_answer_of_the_most_similar_question(monkeypatch, rows):
    monkeypatch.setattr(plain, "ROWS", rows)
    train, asked = many(1, 40), many(2, 10)

    def text(one):
        return f"{one.instruction}\n{one.input}".strip()

    for one, answer in zip(asked, nearest(train, asked), strict=True):
        best = max(fuzz.ratio(text(one), text(other)) for other in train)
        assert answer.id == one.id
        assert answer.response in {o.output for o in train if fuzz.ratio(text(one), text(o)) == pytest.approx(best)}


def test_of_equally_similar_questions_the_first_id_counts_whatever_the_order():
    train = [replace(one, id=f"id-{place:02}") for place, one in enumerate([*many(1, 10), *many(1, 10)])]
    train = [replace(one, output=one.id) for one in train]
    expected = [one.response for one in nearest(train, many(1, 10))]
    assert expected == [f"id-{place:02}" for place in range(10)]
    random.Random(3).shuffle(train)
    assert [one.response for one in nearest(train, many(1, 10))] == expected
