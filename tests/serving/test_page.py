"""The page in a real Chromium: what a person does with it, and that no text becomes markup."""

import json
import os
import time
from pathlib import Path

import pytest

from instruct.core.files import write_json
from instruct.formats.columns import USUAL
from instruct.formats.rows import check_rows

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
SECONDS = 60


class Page:
    """A page of a server, in the tests' browser."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url
        browser._call("Network.setBlockedURLs", urls=["https://*"])

    def open(self, *, width=1000, dark=False, until="at('status').textContent.startsWith('ready')"):
        self.browser.errors.clear()
        self.browser.requests.clear()
        self.browser.resize(width, 900)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.browser._call("Emulation.setEmulatedMedia", media="", features=scheme)
        self.browser._loaded = False
        self.browser._call("Page.navigate", url=self.url)
        while not self.browser._loaded:
            self.browser._handle(self.browser._receive())
        self.wait(until)

    def wait(self, condition):
        until = time.monotonic() + SECONDS
        while not self.browser.run(condition):
            assert time.monotonic() < until, f"{condition}: {self.browser.run('at(`status`).textContent')}"
            time.sleep(0.02)

    def fill(self, id_, text):
        self.browser.run(f"at({json.dumps(id_)}).value = {json.dumps(text)}")

    def ask(self, text, **fields):
        for id_, value in {"instruction": text, "max_tokens": "24", **fields}.items():
            self.fill(id_, value)
        self.browser.click("#ask")
        self.wait("state.cards.length > 0 && !state.stopper")

    def end(self):
        """As if all answers had ended by themselves; those of random models are cut."""
        self.browser.run("for (const card of state.cards) card.reason = 'stop'; offer()")

    def texts(self):
        return self.browser.run("state.cards.map(card => [card.model, card.shown.textContent])")

    def status(self):
        return self.browser.run("at('status').textContent")


@pytest.fixture
def page(browser, serving, tmp_path):
    for part in ("val", "test"):
        (tmp_path / "data/split").mkdir(parents=True, exist_ok=True)
        record = {"id": part, "instruction": f"Name the largest {part} of all.", "input": "", "output": "One."}
        write_json(tmp_path / f"data/split/{part}.json", [record])
    one = Page(browser, serving(max_tokens=16).url)
    yield one
    assert [url for url in browser.requests if not url.startswith((one.url, "data:"))] == []
    assert [error for error in browser.errors if "409 (Conflict)" not in error] == []  # a refusal that is meant
    browser._call("Network.setBlockedURLs", urls=["http://*", "https://*"])


def test_systems_answer_side_by_side_as_the_engine_does(page, systems, offline):
    page.open()
    page.ask("Tell me about rain.", max_tokens="12")
    expected = {
        name: offline(one, {"0": one.template.render("Tell me about rain.")})["0"] for name, one in systems.items()
    }
    assert dict(page.texts()) == expected
    page.browser.click("#again")
    page.wait("!state.stopper && at('seed').value === '2'")
    assert dict(page.texts()) == expected, "greedy answers do not depend on the seed"


def test_a_blind_choice_is_written_with_what_is_needed_to_train_on_it(page, systems, tmp_path):
    page.open()
    page.browser.click("#blind")
    page.ask("Tell me about snow.")
    headings = page.browser.run("state.cards.map(card => card.heading.textContent)")
    assert headings == ["Answer A", "Answer B", "Answer C"]
    shown = page.browser.run("[...document.querySelectorAll('article :not(.text)')].map(one => one.textContent)")
    assert not set(systems) & {word for text in shown for word in text.split()}
    page.end()
    page.browser.click("#answers article:nth-child(2) button")
    page.wait("at('status').textContent.includes('added')")
    order = [name for name, _ in page.texts()]
    assert page.browser.run("state.cards.map(card => card.heading.textContent)") == order
    lines = [json.loads(line) for line in (tmp_path / "data/preferences.jsonl").read_text().splitlines()]
    said = dict(page.texts())
    assert [(one["chosen_system"], one["rejected_system"]) for one in lines] == [
        (order[1], order[0]),
        (order[1], order[2]),
    ]
    for one in lines:
        assert one["prompt"] == systems[order[1]].template.render("Tell me about snow.")
        assert (one["chosen"], one["rejected"]) == (said[order[1]], said[one["rejected_system"]])
        assert one["chosen_digest"] == f"digest-of-{order[1]}" and one["blind"] is True
        assert {"seed", "temperature", "max_tokens", "template", "input"} <= set(one)


def test_what_a_person_would_have_said_is_a_record_of_the_data_set(page, tmp_path):
    page.open()
    page.ask("Tell me about hail.", input="As a child")
    page.fill("mine", 'Frozen rain, "hard" as ice.')
    page.browser.click("#keep")
    page.wait("at('status').textContent.includes('added')")
    (record,), problems = check_rows(tmp_path / "data/mine.jsonl", USUAL)
    assert (record.instruction, record.input, record.output) == (
        "Tell me about hail.",
        "As a child",
        'Frozen rain, "hard" as ice.',
    )
    assert not problems


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_prompt_that_resembles_a_held_out_one_is_not_kept(page, tmp_path, part):
    page.open()
    page.ask(f"name the  largest {part} of all")
    page.end()
    page.browser.click("#answers article button")
    page.wait("at('status').className === 'bad'")
    assert f"data/split/{part}.json" in page.status()
    page.fill("mine", "Mine.")
    page.browser.click("#keep")
    page.wait("at('status').className === 'bad'")
    assert not (tmp_path / "data/mine.jsonl").exists() and not (tmp_path / "data/preferences.jsonl").exists()


def test_nothing_that_is_written_becomes_markup(page):
    page.open()
    page.ask(HOSTILE)
    page.browser.run("add(state.cards[0], { delta: { content: " + json.dumps(HOSTILE) + " } })")
    page.browser.run("state.cards[0].scores = [{ token: " + json.dumps(HOSTILE) + ", logprob: -1, top_logprobs: [] }]")
    page.browser.run("look(state.cards[0])")
    page.wait("document.querySelector('pre').textContent.includes('onerror')")
    page.browser.run("document.querySelector('.tokens span').focus()")
    assert page.browser.run("document.querySelectorAll('img, b').length") == 0
    assert page.browser.run("document.title") == "Instruct: ask the models"
    assert HOSTILE in page.browser.run("document.querySelector('.tokens').textContent")


def test_stop_ends_an_answer_and_edit_goes_on_from_a_changed_one(page, systems):
    page.open()
    page.fill("instruction", "Tell me about fire.")
    page.fill("max_tokens", "200")
    page.browser.run("at('form').requestSubmit()")
    page.wait("state.cards.length === 3 && state.cards.every(card => card.text)")
    page.browser.press("Escape")
    page.wait("!state.stopper")
    assert "stopped" in page.status()
    page.fill("max_tokens", "5")
    page.browser.click("#answers article button:nth-child(2)")
    page.browser.run("document.querySelector('article textarea').value = 'The fire'")
    page.browser.click("#answers article button:nth-child(2)")
    page.wait("!state.stopper && state.cards[0].text.length > 8")
    assert page.texts()[0][1].startswith("The fire")


def test_an_edited_answer_is_no_models_answer_and_the_next_question_follows_it(page, tmp_path):
    """Base and SFT model have a template without turns, so the page offers one question at a time here."""
    page.open()
    page.ask("Tell me about coal.")
    page.browser.run("edit(state.cards[0])")
    page.browser.run("document.querySelector('article textarea').value = 'Coal is'")
    page.browser.click("#answers article button:nth-child(2)")
    page.wait("!state.stopper && state.cards[0].text.length > 7")
    page.end()
    page.browser.click("#answers article:nth-child(2) button")
    page.wait("at('status').textContent.includes('added')")
    (line,) = (json.loads(line) for line in (tmp_path / "data/preferences.jsonl").read_text().splitlines())
    assert (line["chosen_system"], line["rejected_system"]) == ("sft", "dpo")
    page.ask("Tell me about ash.")
    for place in (0, 1):
        page.browser.run(f"edit(state.cards[{place}]); goOn(state.cards[{place}], 'Ash is')")
        page.wait("!state.stopper")
    assert page.browser.run("state.cards.every(card => card.better.disabled)")
    page.browser.run("state.cards[0].kept = { role: 'assistant', content: 'Old.' }")
    page.browser.run("goOn(state.cards[0], 'Ash was')")
    page.wait("!state.stopper && state.cards[0].kept.content.length > 7")
    assert page.browser.run("state.cards[0].kept.content").startswith("Ash was")


def test_a_question_that_is_not_asked_changes_nothing_that_is_kept(page, tmp_path):
    page.open()
    page.ask("Tell me about salt.")
    page.fill("instruction", " ")
    page.browser.run("ask()")
    page.wait("at('status').className === 'bad'")
    page.fill("mine", "It is in the sea.")
    page.browser.click("#keep")
    page.wait("at('status').textContent.includes('added')")
    assert json.loads((tmp_path / "data/mine.jsonl").read_text())["instruction"] == "Tell me about salt."


def test_no_answer_is_looked_at_or_edited_while_another_one_grows(page):
    page.open()
    page.fill("instruction", "Tell me about oil.")
    page.fill("max_tokens", "200")
    page.browser.run("void ask()")
    page.wait("state.cards.length === 3 && state.cards.every(card => card.text)")
    assert page.browser.run("state.cards.every(card => card.edit.disabled && card.look.disabled)")
    page.browser.press("Escape")
    page.wait("!state.stopper")
    assert page.browser.run("state.cards.every(card => !card.edit.disabled && !card.look.disabled)")


def test_a_wrong_key_is_told_and_a_right_one_asks(browser, serving):
    page = Page(browser, serving(key="right").url)
    page.open(until="at('status').className === 'bad'")
    page.fill("key", "wrong")
    page.fill("instruction", "Tell me about tin.")
    page.browser.run("say('')")
    page.browser.run("ask()")
    page.wait("at('status').textContent !== ''")
    assert "key" in page.status() and page.browser.run("state.cards.length") == 0
    page.ask("Tell me about tin.", key="right")
    assert all(text for _, text in page.texts())
    browser._call("Network.setBlockedURLs", urls=["http://*", "https://*"])


def test_no_answer_is_edited_where_a_policy_could_not_check_the_rest(browser, serving, tmp_path):
    (tmp_path / "policy.yaml").write_text("[{name: no, action: block, pattern: bomb}]")
    page = Page(browser, serving(policy=str(tmp_path / "policy.yaml")).url)
    page.open()
    page.ask("Tell me about zinc.")
    assert all(text for _, text in page.texts())
    assert page.browser.run("state.cards.every(card => card.edit.disabled && card.edit.title.includes('policy'))")
    assert page.browser.run("state.cards.every(card => !card.look.disabled)")
    browser._call("Network.setBlockedURLs", urls=["http://*", "https://*"])


def test_the_token_view_shows_the_prompt_and_each_tokens_chances(page, systems):
    page.open()
    page.ask("Tell me about wind.", max_tokens="6")
    page.browser.click("#answers article button:nth-child(3)")
    page.wait("document.querySelector('pre').textContent !== ''")
    prompt = systems["base"].template.render("Tell me about wind.")
    assert page.browser.run("document.querySelector('pre').textContent") == prompt
    page.browser.run("document.querySelector('.tokens span').focus()")
    assert page.browser.run("document.querySelectorAll('td').length") == 2 * 6
    assert page.browser.run("document.querySelectorAll('.tokens span').length") == 6


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
def test_the_page_fits_and_can_be_read(page, width, dark):
    page.open(width=width, dark=dark)
    page.ask("Tell me about the longestwordthatanybodyhaseverseen" + "n" * 80)
    page.browser.click("#answers article:nth-child(2) button:nth-child(3)")
    page.wait("document.querySelector('pre').textContent !== ''")
    page.browser.run("document.querySelector('.tokens span').focus()")
    assert page.browser.run("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("INSTRUCT_SCREENSHOTS"):
        name = f"{width}-{'dark' if dark else 'light'}.png"
        (Path(folder) / name).write_bytes(page.browser.screenshot(whole=True))


def test_the_keyboard_alone_asks(page):
    page.open()
    page.browser.run("at('instruction').focus()")
    page.browser.type("Tell me about ice.")
    page.browser.run("at('ask').focus()")
    page.browser.press("Enter")
    page.wait("state.cards.length === 3 && !state.stopper")
    assert all(text for _, text in page.texts())
