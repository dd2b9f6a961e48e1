"""What the page of `instruct view` does in a real Chromium: the order of rows, what a filter leaves, what is drawn."""

import json
import re
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from viewing.repository import Repository, response

from instruct.viewing.page import write_view

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u2028<!-- {{ 7 * 7 }}"
MEANS = {"slow": 40.0, "fast": 60.0, "two-epochs": 80.0, "unfinished": None}


@pytest.fixture(scope="session")
def browser():
    program = find_chromium()
    if not program:
        pytest.skip("there is no Chromium here: apt-get install chromium, or name one by INSTRUCT_CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """main and four experiments: three with answers, one without a result; 45 records each."""
    folder = tmp_path_factory.mktemp("view")
    repository = Repository(folder, records=45)
    repository.write(mean=50.0, judges=("reference", "llama"))
    repository.commit()
    for seed, (name, mean) in enumerate(MEANS.items(), start=1):
        lr = {"slow": 1e-5, "fast": 1e-3}.get(name, 2e-4)
        repository.write(mean=mean or 50.0, lr=lr, seed=seed, judges=("reference", "llama"), keep=name != "slow")
        if mean is None:
            for path in ("metrics/evaluate.json", "metrics/scores.csv", "metrics/curves/train.csv", "metrics/curves/val.csv"):
                (folder / path).unlink()
        repository.keep_as_experiment(name)
    output = folder / "build/view/index.html"
    write_view(folder, output)
    return output


@pytest.fixture
def at(browser, page):
    """The page, fresh; `errors` must stay empty."""
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page)
    yield browser
    assert browser.errors == []


def rows(browser):
    return browser.run("[...document.querySelectorAll('.runs tbody tr')].filter(r => !r.hidden).map(r => r.querySelector('.name').textContent)")


def sort_button(key):
    return f'.runs thead [data-col="{key}"] button'


def choose(browser, id_, value):
    script = "(() => {{ const e = document.getElementById({}); e.value = {}; e.dispatchEvent(new Event('change', {{bubbles: true}})) }})()"
    browser.run(script.format(json.dumps(id_), json.dumps(value)))


def fill(browser, id_, text):
    """Type into a field as a person does, and wait until the page has answered."""
    browser.run(f"document.getElementById({json.dumps(id_)}).select?.()")
    browser.run(f"document.getElementById({json.dumps(id_)}).value = ''")
    browser.run(f"document.getElementById({json.dumps(id_)}).focus()")
    browser.type(text)
    browser.run("new Promise(done => setTimeout(done, 200))")


def answers(browser):
    """What the list shows: record, score and gain of each answer."""
    texts = browser.run("[...document.querySelectorAll('#answers-list article')].map(a => a.textContent)")
    return [re.search(r"\br\d+\b", text)[0] for text in texts]


def scores_of(page, name, judge="reference", system="tuned"):
    """A run's scores by record, from the data inside the page's file, without the page's own scripts."""
    text = page.read_text(encoding="utf-8")

    def block(id_):
        return json.loads(re.search(rf'<script type="application/json" id="{id_}">(.*?)</script>', text, re.S)[1])

    run = next(run for run in block("view-data")["runs"] if run["name"] == name)
    return dict(zip(block(run["records"])["id"], block(run["scores"])[judge][system], strict=True))


def test_a_click_on_a_head_sorts_by_it_and_another_click_turns_the_order(at):
    assert rows(at)[0] == "main"
    at.click(sort_button("score:reference"))
    by_score = rows(at)
    assert by_score == ["two-epochs", "fast", "main", "slow", "unfinished"]
    assert at.run("document.querySelector('[data-col=\"score:reference\"]').ariaSort") == "descending"
    at.click(sort_button("score:reference"))
    assert rows(at) == ["slow", "main", "fast", "two-epochs", "unfinished"]  # what has no score stays last
    assert at.run("document.querySelector('[data-col=\"score:reference\"]').ariaSort") == "ascending"
    assert at.run("document.querySelectorAll('.runs thead [aria-sort=none]').length") == at.run("document.querySelectorAll('.runs thead th').length - 1")


def test_settings_are_sorted_as_numbers_not_as_texts(at):
    at.click(sort_button("set:train.lr"))
    assert rows(at)[0] == "fast" and rows(at)[-1] == "slow"  # 1e-3 before 2e-4 before 1e-5


def test_the_keyboard_alone_sorts(at):
    at.run(f"document.querySelector({json.dumps(sort_button('val_loss'))}).focus()")
    at.press("Enter")
    assert rows(at)[0] == "two-epochs"  # the lowest loss first
    at.press("Space")
    assert rows(at)[-1] == "two-epochs"
    assert "sorted by best val loss, descending" in at.run("document.getElementById('runs-status').textContent")


def test_finding_leaves_the_runs_that_hold_all_words(at):
    fill(at, "runs-find", "experiment EPOCHS")
    assert rows(at) == ["two-epochs"]
    assert at.run("document.getElementById('runs-status').textContent").startswith("1 of 5 runs")
    fill(at, "runs-find", "nothing like it")
    assert rows(at) == []


def test_a_column_is_switched_on_and_off(at):
    shown = "getComputedStyle(document.querySelector('td[data-col=\"steps\"]')).display"
    assert at.run(shown) == "none"
    at.click(".chooser summary")
    at.click('.chooser input[value="steps"]')
    assert at.run(shown) != "none"
    at.press("Escape")
    assert at.run("document.querySelector('.chooser').open") is False
    assert at.run("document.activeElement.tagName") == "SUMMARY"


def test_curves_of_all_chosen_runs_lie_on_one_chart_with_their_own_points(at):
    paths = "[...document.querySelectorAll('#curves-chart path.line')].map(p => [p.querySelector('title').textContent, p.getAttribute('d').split(/[ML]/).length - 1, p.getAttribute('stroke')])"
    drawn = at.run(paths)
    assert [name for name, *_ in drawn] == ["main", *rows(at)[1:-1]][: len(drawn)] or {name for name, *_ in drawn} == {"main", "slow", "fast", "two-epochs"}
    assert {points for _, points, _ in drawn} == {40}
    assert len({colour for *_, colour in drawn}) == len(drawn) == 4
    at.click('.runs tr[data-run="0"] .draw input')
    assert "main" not in {name for name, *_ in at.run(paths)}
    at.click("#curves-none")
    assert at.run(paths) == []
    assert "No run" in at.run("document.getElementById('curves-status').textContent")
    at.click("#curves-all")
    assert len(at.run(paths)) == 4
    assert at.run("document.querySelectorAll('.draw input:disabled').length") == 1  # the run without curves


def test_arrow_keys_read_the_values_of_the_curves(at):
    at.run("document.getElementById('curves-chart').focus()")
    at.press("ArrowRight", "ArrowRight")
    read = at.run("document.getElementById('curves-reading').textContent")
    assert "step 1:" in read
    main = 2.5 * 0.97 * 50 / 50.0  # as repository.py writes it
    assert f"main {main:.4g}" in read


def test_what_is_drawn_lies_inside_the_chart(at):
    for what in ("val.loss", "train.loss", "train.lr"):
        choose(at, "curves-what", what)
        outside = at.run("[...document.querySelectorAll('#curves-chart path.line')].map(p => p.getBBox()).filter(b => b.x < 60 || b.y < 10 || b.x + b.width > 848 || b.y + b.height > 336).length")
        assert outside == 0, what


def test_answers_are_shown_a_page_at_a_time(at):
    assert answers(at) == [f"r{i}" for i in range(20)]
    assert at.run("document.getElementById('answers-status').textContent") == "45 of 45 answers"
    at.click("#answers-next")
    at.click("#answers-next")
    assert answers(at) == [f"r{i}" for i in range(40, 45)]
    assert at.run("document.getElementById('answers-next').disabled") is True


def test_answers_are_sorted_by_score_and_by_gain(at, page):
    tuned, base = scores_of(page, "main"), scores_of(page, "main", system="base")
    choose(at, "answers-sort", "low")
    assert answers(at) == sorted(tuned, key=tuned.get)[:20]
    choose(at, "answers-sort", "loss")
    assert answers(at) == sorted(tuned, key=lambda id_: tuned[id_] - base[id_])[:20]


def test_filters_leave_exactly_what_they_say(at, page):
    tuned, base = scores_of(page, "main"), scores_of(page, "main", system="base")
    count = "Number(document.getElementById('answers-status').textContent.split(' ')[0])"
    choose(at, "answers-which", "worse")
    assert at.run(count) == sum(tuned[id_] < base[id_] for id_ in tuned) > 0
    choose(at, "answers-which", "unended")
    assert at.run(count) == 12  # each fourth of 45 ended by length
    choose(at, "answers-which", "cut")
    assert answers(at) == ["r1"]
    choose(at, "answers-which", "all")
    choose(at, "answers-kind", "facts")
    assert at.run(count) == 15
    choose(at, "answers-kind", "")
    fill(at, "answers-low", "50")
    assert at.run(count) == sum(score >= 50 for score in tuned.values())
    at.click("#answers-form button[type=reset]")
    at.run("new Promise(done => setTimeout(done, 100))")
    assert at.run(count) == 45


def test_the_search_finds_in_questions_and_answers_and_marks_what_it_found(at):
    fill(at, "answers-find", "QUESTION r17")
    assert answers(at) == ["r17"]
    assert at.run("[...document.querySelectorAll('#answers-list mark')].map(m => m.textContent.toLowerCase())")[:3] == ["r17", "question", "r17"]


def test_two_runs_stand_beside_each_other_with_the_scores_of_each(at, page):
    place = at.run("document.querySelector('.runs tbody tr:has([data-value=\"fast\"])').dataset.run")
    at.click(f'.runs tr[data-run="{place}"] .read')
    assert at.run("document.getElementById('answers-run').selectedOptions[0].textContent") == "fast"
    two = at.run("[...document.getElementById('answers-beside').options].find(o => o.textContent === 'two-epochs').value")
    choose(at, "answers-beside", two)
    heads = at.run("[...document.querySelectorAll('#answers-list article:first-child h3')].map(h => h.textContent)")
    mine, its = scores_of(page, "fast")["r0"], scores_of(page, "two-epochs")["r0"]
    assert heads == ["reference", f"two-epochs · score {its:.0f}", f"fast · score {mine:.0f}"]


def test_a_run_whose_answers_are_not_in_the_cache_still_shows_its_scores_and_says_so(at):
    place = at.run("document.querySelector('.runs tbody tr:has([data-value=\"slow\"])').dataset.run")
    choose(at, "answers-run", place)
    assert "not in DVC's cache" in at.run("document.getElementById('answers-status').textContent")
    assert "(the text is not here)" in at.run("document.getElementById('answers-list').textContent")
    assert "· score" in at.run("document.getElementById('answers-list').textContent")


def test_no_width_makes_the_page_scroll_sideways(browser, page):
    for width in (320, 400, 768, 1000, 1400):
        browser.open(page, width=width)
        assert browser.run("document.documentElement.scrollWidth") <= width
    browser.open(page, width=1000)
    assert browser.run("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.wide'))") <= 0


def test_text_has_enough_contrast_in_light_and_in_dark(browser, page):
    """WCAG 2.2 AA: 4.5 to 1 between a text and what lies behind it."""
    script = """(() => {
      const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0)
      const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c } }
      return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('svg, :disabled') && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
        .map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x); return [(a + .05) / (b + .05), e.tagName + '.' + e.className + ': ' + e.textContent.slice(0, 30)] })
        .filter(([ratio]) => ratio < 4.5) })()"""
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert browser.run(script) == []


def test_every_control_has_a_name_and_ids_are_unique(at):
    nameless = "[...document.querySelectorAll('input, select, button')].filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())).length"
    assert at.run(nameless) == 0
    assert at.run("(ids => ids.length - new Set(ids).size)([...document.querySelectorAll('main [id]:not(svg *)')].map(e => e.id))") == 0


def test_the_page_asks_for_nothing_but_itself(at, page):
    assert at.requests == [page.resolve().as_uri()]


def test_hostile_texts_are_shown_and_never_run(browser, tmp_path):
    repository = Repository(tmp_path, records=3)
    repository.write(text=ATTACK)
    repository.put_json("data/responses.json", [response(f"r{i}", ATTACK, i, instruction=ATTACK, kind=ATTACK) for i in range(3)])
    output = tmp_path / "view.html"
    write_view(tmp_path, output)
    browser.errors.clear()
    browser.open(output)
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelectorAll('script:not([type])').length") == 1
    text = browser.run("document.querySelector('#answers-list .text').textContent")
    assert text == ATTACK
    # Even if a text did get in as markup, the policy of the page lets no script run but its own.
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 3'}))")
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in error for error in browser.errors)
    browser.errors.clear()


def test_fifty_runs_and_ten_thousand_answers_fit(browser, tmp_path):
    repository = Repository(tmp_path, records=200)
    repository.write()
    repository.commit()
    for i in range(1, 50):
        repository.write(mean=30.0 + i, seed=i, lr=i * 1e-5)
        repository.keep_as_experiment(f"e{i}")
    output = tmp_path / "view.html"
    assert len(write_view(tmp_path, output)) == 50
    browser.errors.clear()
    browser.open(output)
    assert browser.errors == []
    assert len(rows(browser)) == 50
    browser.click(sort_button("score:reference"))
    assert rows(browser)[0] == "e49"
    assert browser.run("document.querySelectorAll('#answers-list article').length") == 20
    fill(browser, "answers-find", "r199")
    assert answers(browser) == ["r199"]
