"""Every usual form of a preference file gives the same pairs, and bad records are named with file, place and field."""

import json

import pytest

from instruct.core.errors import DataError
from instruct.pairs.reading import read_file, read_pair

USER = {"role": "user", "content": "Name a metal."}


def said(text):
    return {"role": "assistant", "content": text}


def asked(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def answers(*before):
    """Both answers as messages, after those that they have in common."""
    return {"chosen": [*before, said("Copper.")], "rejected": [*before, said("Oak.")]}


FORMS = {
    "texts": {"prompt": "Name a metal.", "chosen": "Copper.", "rejected": "Oak."},
    "own fields": {"instruction": "Name a metal.", "input": "", "chosen": "Copper.", "rejected": "Oak."},
    "without input": {"instruction": "Name a metal.", "chosen": "Copper.", "rejected": "Oak."},
    "messages": {"prompt": [USER], "chosen": [said("Copper.")], "rejected": [said("Oak.")]},
    "prompt in both": {"chosen": [USER, said("Copper.")], "rejected": [USER, said("Oak.")]},
    "messages and texts": {"prompt": [USER], "chosen": "Copper.", "rejected": "Oak."},
    "text and messages": {"prompt": "Name a metal.", **answers()},
    "prompt before and in both": {"prompt": [USER], **answers(USER)},
    "ShareGPT": {
        "prompt": [{"from": "human", "value": "Name a metal."}],
        "chosen": [{"from": "gpt", "value": "Copper."}],
        "rejected": [{"from": "gpt", "value": "Oak."}],
    },
    "ShareGPT and texts": {
        "prompt": [{"from": "human", "value": "Name a metal."}],
        "chosen": "Copper.",
        "rejected": "Oak.",
    },
    "no input": {"prompt": "Name a metal.", "input": "<noinput>", "history": [], "system": "", **answers()},
    "UltraFeedback": {
        "prompt": "Name a metal.",
        "prompt_id": "ab",
        "chosen": [USER, said("Copper.")],
        "rejected": [USER, said("Oak.")],
        "score_chosen": 8.0,
    },
    "HH": {
        "chosen": "\n\nHuman: Name a metal.\n\nAssistant: Copper.",
        "rejected": "\n\nHuman: Name a metal.\n\nAssistant: Oak.",
    },
    "HH with its prompt apart": {
        "prompt": "\n\nHuman: Name a metal.\n\nAssistant:",
        "chosen": " Copper.",
        "rejected": " Oak.",
    },
    "the chat page": {
        "prompt": "### Instruction:\nName a metal.",
        "instruction": "Name a metal.",
        "input": "",
        "chosen": "Copper.",
        "rejected": "Oak.",
        "chosen_system": "sft",
        "seed": 1,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(tmp_path, form):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(FORMS[form]) + "\n")
    (pair,), invalid, _ = read_file(path, drop=False)
    assert (pair.instruction, pair.input, pair.output, pair.rejected) == ("Name a metal.", "", "Copper.", "Oak.")
    assert (pair.history, pair.system, invalid) == ((), "", 0)
    assert [side.output for side in pair.sides] == ["Copper.", "Oak."]


def test_a_chat_keeps_its_turns_and_system_prompt_in_all_forms():
    chat = [{"role": "system", "content": "Be brief."}, USER, said("Tin."), {"role": "user", "content": "Another?"}]
    messages = {"chosen": [*chat, said("Zinc.")], "rejected": [*chat, said("Pine.")]}
    values, problems = read_pair(messages)
    assert (values["system"], len(values["history"]), values["output"], problems) == ("Be brief.", 1, "Zinc.", [])
    text = "\n\nHuman: Name a metal.\n\nAssistant: Tin.\n\nHuman: Another?\n\nAssistant: "
    transcript, problems = read_pair({"chosen": f"{text}Zinc.", "rejected": f"{text}Pine."})
    assert {k: v for k, v in values.items() if k != "system"} == transcript and not problems


TEXTS = {"chosen": "Copper.", "rejected": "Oak."}
TURN = {"instruction": "Hello.", "input": "", "output": "Hi!"}
BEFORE = (asked("Hello."), said("Hi!"))
WHOLE = {
    "system and text": ({"system": "Be brief.", "prompt": "Name a metal.", **TEXTS}, {"system"}),
    "system and messages": ({"system": "Be brief.", **answers(USER)}, {"system"}),
    "system twice": ({"system": "Be brief.", **answers(system("Be brief."), USER)}, {"system"}),
    "system and transcript": ({"system": "Be brief.", **FORMS["HH"]}, {"system"}),
    "system in the prompt": ({"prompt": [system("Be brief."), USER], **answers(USER)}, {"system"}),
    "input": ({"prompt": "Name a metal.", "input": "Not tin.", **TEXTS}, {"input"}),
    "history": ({"prompt": "Name a metal.", "history": [TURN], **TEXTS}, {"history"}),
    "turn in the prompt": ({"prompt": list(BEFORE), **answers(USER)}, {"history"}),
    "turns in prompt and answers": ({"prompt": [*BEFORE, USER], **answers(*BEFORE, USER)}, {"history"}),
    "end of the prompt in the answers": ({"prompt": [*BEFORE, USER], **answers(USER)}, {"history"}),
    "turn that the answers end": ({"prompt": [BEFORE[0]], **answers(BEFORE[1], USER)}, {"history"}),
    "turn that the answers end, after a text": ({"prompt": "Hello.", **answers(BEFORE[1], USER)}, {"history"}),
    "turn in a transcript before": ({"prompt": "\n\nHuman: Hello.\n\nAssistant: Hi!", **FORMS["HH"]}, {"history"}),
    "all": ({"prompt": [system("Be brief."), *BEFORE], **answers(USER)}, {"system", "history"}),
}
SAID = {"system": "Be brief.", "input": "Not tin.", "history": [TURN]}


@pytest.mark.parametrize("form", WHOLE)
def test_nothing_that_was_said_before_the_answers_is_lost(form):
    row, given = WHOLE[form]
    values, problems = read_pair(row)
    expected = {"instruction": "Name a metal.", "input": "", "output": "Copper.", "rejected": "Oak."}
    assert (values, problems) == (expected | {name: SAID[name] for name in given}, [])


def test_an_answer_may_repeat_its_prompt():
    values, problems = read_pair({"prompt": "Hi", "chosen": [said("Hello")], "rejected": [said("Hi")]})
    assert (values["instruction"], values["rejected"], problems) == ("Hi", "Hi", [])


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"system": "Be long.", **answers(system("Be brief."), USER)}, '"system"'),
        ({"input": "Not tin.", **answers(USER)}, '"input"'),
        ({"history": [TURN], **answers(USER)}, '"history"'),
        ({"input": "Not tin.", **FORMS["HH"]}, '"input"'),
        ({"prompt": [asked("Name a tree.")], **answers(USER)}, "prompt and chosen[1]"),
        ({"prompt": "Name a tree.", **answers(USER)}, "prompt and chosen[1]"),
        ({"prompt": [USER], "chosen": [], "rejected": []}, "chosen"),
        ({"system": 3, "prompt": "a", **TEXTS}, '"system"'),
        ({"prompt": "a", "chosen": "b"}, "rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "rejected"),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, "chosen"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "prompt"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "prompt"),
        ({"chosen": "b", "rejected": "c"}, "prompt"),
        ({"prompt": "a", "chosen": "b", "rejected": 7}, "rejected"),
        ({"chosen": [USER, said("x")], "rejected": [{"role": "user", "content": "Other?"}, said("y")]}, "rejected"),
        ({"chosen": [USER, said("x")], "rejected": [USER]}, "rejected"),
        ({"chosen": [USER, said("x")], "rejected": [USER, {"role": "robot", "content": "y"}]}, "rejected[1].role"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a"}, "rejected"),
        ({"instruction": "a", "id": 1.5, "chosen": "b", "rejected": "c"}, "id"),
        ("text", "prompt"),
    ],
)
def test_a_bad_record_is_one_line_with_file_place_and_field(tmp_path, row, field):
    path = tmp_path / "pairs.jsonl"
    good = FORMS["texts"]
    path.write_text("".join(json.dumps(one) + "\n" for one in (good, row)))
    with pytest.raises(DataError) as error:
        read_file(path, drop=False)
    problem, remedy = str(error.value).splitlines()
    assert problem.startswith(f"{path}:2: ") and field in problem
    assert "pairs.invalid" in remedy
    pairs, invalid, _ = read_file(path, drop=True)
    assert (len(pairs), invalid) == (1, 1)


def test_an_empty_file_is_refused_and_unused_columns_are_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="holds no pairs"):
        read_file(path, drop=False)
    path.write_text("".join(json.dumps(FORMS["UltraFeedback"]) + "\n" for _ in range(2)))
    pairs, _, others = read_file(path, drop=False)
    assert others == {"prompt_id": 2, "score_chosen": 2}
    assert len({pair.id for pair in pairs}) == 2
    path.write_text(json.dumps(FORMS["the chat page"]))
    assert read_file(path, drop=False)[2] == {"prompt": 1, "chosen_system": 1, "seed": 1}
