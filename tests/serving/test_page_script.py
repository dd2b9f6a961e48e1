"""The page's own script without a browser: which requests it sends, in what order a person may press its buttons."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from instruct.serving import app
from instruct.serving.messages import Said, knows_turns, render_chat
from instruct.text.prompts import TEMPLATES, as_text

NODE = shutil.which("node")
PAGE, HARNESS = Path(app.__file__).with_name("page.html"), Path(__file__).with_name("page.js")
pytestmark = pytest.mark.skipif(not NODE, reason="there is no node here: apt-get install nodejs")


def page(steps):
    """What the steps return; they see the page's names and those of page.js."""
    done = subprocess.run([NODE, HARNESS, PAGE, steps], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_new_chat_holds_no_turn_from_before_it():
    steps = """
        await asked("One"); await asked("Two");
        await click(at("fresh"));
        const kept = server.sent.length, over = at("own").hidden && !state.cards.length;
        at("instruction").value = "Three";
        await click(at("again"));
        await asked("Three"); await asked("Four");
        return [over, server.sent.length - kept, ...chats().slice(-2)];
    """
    assert page(steps) == [True, 4, ["Three"], ["Three", "sft on Three", "Four"]]


def test_a_chat_is_not_ended_while_an_answer_grows():
    steps = """
        await asked("One");
        let go; server.held["/v1/chat/completions"] = new Promise(resolve => { go = resolve; });
        await asked("Two");
        await click(at("fresh"));
        go(); await settled();
        await asked("Three");
        return chats().at(-1);
    """
    assert page(steps) == ["One", "sft on One", "Two", "sft on Two", "Three"]


@pytest.mark.parametrize("spoil", ["at('instruction').value = ''", "server.refused = ['/v1/chat/completions']"])
def test_another_answer_replaces_the_last_turn_only_once_it_is_there(spoil):
    steps = """
        await asked("One"); await asked("Two");
        await click(at("again"));
        const again = chats().at(-1);
        SPOIL;
        await click(at("again"));
        server.refused = [];
        await asked("Three");
        return [again, chats().at(-1)];
    """
    again, after = page(steps.replace("SPOIL", spoil))
    assert again == ["One", "sft on One", "Two"]
    assert after == ["One", "sft on One", "Two", "sft on Two", "Three"]


def test_an_edited_answer_gets_no_begin_token_of_its_own():
    steps = """
        await asked("One");
        await click(state.cards[1].edit);
        state.cards[1].shown.children[0].value = "Mine";
        await click(state.cards[1].edit);
        return server.sent.filter(([path]) => path === "/tokenize").map(([, body]) => body);
    """
    whole, edited = page(steps)[-2:]
    assert "messages" in whole and (edited["prompt"], edited["add_special_tokens"]) == ("Mine", False)


def test_an_edited_answer_is_what_the_next_question_follows():
    steps = """
        await asked("One");
        await click(state.cards[1].edit);
        state.cards[1].shown.children[0].value = "Edited, ";
        await click(state.cards[1].edit);
        await asked("Two");
        return chats().at(-1);
    """
    assert page(steps) == ["One", "Edited, sft on a prompt", "Two"]


def test_a_later_turn_follows_the_whole_question_before_it():
    steps = """
        await asked("Shorten", "A long text"); await asked("Again");
        return server.sent.at(-1)[1].messages;
    """
    first, answer, last = page(steps)
    assert (answer["role"], last["content"]) == ("assistant", "Again")
    for name, template in TEMPLATES.items():
        if knows_turns(template):
            assert first == {"role": "user", "content": f"Shorten{template.before_input}A long text"}, name
            alone = render_chat(template, name, [Said(role="user", content="Shorten")], "A long text")
            assert as_text(render_chat(template, name, [Said(**first)])) == as_text(alone)


def test_only_first_questions_are_kept_for_training():
    steps = """
        const open = [];
        for (const question of ["One", "Two"]) {
          await asked(question);
          open.push([!at("own").hidden, ...state.cards.map(card => !card.better.disabled)]);
        }
        await click(at("fresh")); await asked("Three");
        return [...open, [!at("own").hidden, ...state.cards.map(card => !card.better.disabled)]];
    """
    assert page(steps) == [[True] * 3, [False] * 3, [True] * 3]


def test_a_choice_and_a_record_are_written_once_and_again_only_after_an_error():
    steps = """
        const many = path => server.sent.filter(one => one[0] === path).length, found = [];
        await asked("One");
        const [first, second] = state.cards.map(card => card.better);
        for (const refused of [true, false]) {
          server.refused = refused ? ["/preferences", "/mine"] : [];
          click(first); click(first); click(second); click(at("keep")); click(at("keep"));
          await settled();
          found.push([many("/preferences"), many("/mine"), first.disabled, second.disabled, at("keep").disabled]);
        }
        return found;
    """
    assert page(steps) == [[1, 1, False, False, False], [2, 2, True, True, False]]


@pytest.mark.parametrize("refused", ["[]", "['/preferences']"])
def test_a_late_reply_changes_no_later_round(refused):
    steps = """
        server.turns = state.info.turns = false;
        at("blind").checked = true;
        await asked("One");
        let go; server.held["/preferences"] = new Promise(resolve => { go = resolve; });
        server.refused = REFUSED;
        const [card] = state.cards;
        await click(card.better);
        await asked("Two");
        go(); await settled();
        const revealed = card.heading.textContent === card.model;
        return [revealed, ...state.cards.map(one => [one.heading.textContent, one.better.disabled])];
    """
    told = page(steps.replace("REFUSED", refused))
    assert told == [refused == "[]", ["Answer A", False], ["Answer B", False]]


@pytest.mark.parametrize(
    ("base", "sft", "expected"), [("A.", "B.", [True, True]), ("A.", "", [False, False]), ("A.", "A.", [False, False])]
)
def test_an_answer_can_be_better_only_than_another_one_that_says_something(base, sft, expected):
    steps = """
        server.answer = body => ({ base: BASE, sft: SFT })[body.model];
        await asked("One");
        return state.cards.map(card => !card.better.disabled);
    """
    assert page(steps.replace("BASE", json.dumps(base)).replace("SFT", json.dumps(sft))) == expected


@pytest.mark.parametrize(
    "sft",
    [
        {"finish_reason": "length"},
        {"finish_reason": "content_filter", "policy": [{"name": "key", "action": "block"}]},
        {"finish_reason": "stop", "policy": [{"name": "mail", "action": "mask"}]},
    ],
)
def test_an_answer_that_is_not_whole_is_in_no_pair(sft):
    steps = """
        state.models.push("dpo");
        server.ended = body => body.model === "sft" ? SFT : { finish_reason: "stop", policy: [{ action: "flag" }] };
        await asked("One");
        const open = state.cards.map(card => !card.better.disabled);
        await click(state.cards[0].better);
        return [open, server.sent.at(-1)[1].rejected];
    """
    whole = {"system": "dpo", "text": "dpo on One", "finish_reason": "stop"}
    assert page(steps.replace("SFT", json.dumps(sft))) == [[True, False, True], [whole]]


def test_a_correction_is_kept_only_with_the_question_that_it_answers():
    steps = """
        const found = [];
        const rounds = [["One", "", "1."], ["One", "", "2."], ["One", "Text", "3."], ["Two", "Text", "4."]];
        for (const [question, input, typed] of rounds) {
          await asked(question, input);
          found.push(at("mine").value);
          at("mine").value = typed;
        }
        let go; server.held["/mine"] = new Promise(resolve => { go = resolve; });
        click(at("keep"));
        await asked("Three");
        at("mine").value = "Of three.";
        go(); await settled();
        return [found, server.sent.filter(one => one[0] === "/mine").map(one => one[1]), at("mine").value];
    """
    last = {"instruction": "Two", "input": "Text", "output": "4."}
    assert page(steps) == [["", "1.", "", ""], [last], "Of three."]


def test_ctrl_enter_asks_from_the_form_alone():
    """Keys in the boxes below it reach the document without passing the form."""
    steps = """
        at("instruction").value = "One";
        const event = { key: "Enter", ctrlKey: true }, found = [];
        for (const place of [document, at("form")]) {
          place.onkeydown(event);
          await settled();
          found.push(chats().length);
        }
        return found;
    """
    assert page(steps) == [0, 1]
