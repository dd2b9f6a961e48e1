"""What the page of `instruct view` does in a real Chromium: the order of rows, what a filter leaves, what is drawn."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image
from screenshot import take_picture
from viewing.repository import Repository, response

from instruct.results.revisions import Revision
from instruct.viewing.collect import collect_runs
from instruct.viewing.page import render, write_view

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\u2028<!-- {{ 7 * 7 }}"
MEANS = {"slow": 40.0, "fast": 60.0, "two-epochs": 80.0, "unfinished": None}
SCHEDULES = {"slow": "cosine", "fast": "linear", "two-epochs": "constant", "unfinished": "warm"}
PARTS = ("#curves-chart svg", "#answers-list .s1")
RIGHT = {system: [None, *[100.0] * n, *[0.0] * (44 - n)] for system, n in {"base": 10, "sft": 30}.items()}
RESULTS = ("metrics/evaluate.json", "metrics/scores.csv", "metrics/curves/train.csv", "metrics/curves/val.csv")
FOUND = "Number(document.getElementById('answers-status').textContent.split(' ')[0])"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """main and four experiments: three with results (`slow` has lost its answers) and one without; 45 records.

    Each ended an hour after the one before, `slow` first.
    """
    folder = tmp_path_factory.mktemp("view")
    repository = Repository(folder, records=45)
    repository.write(mean=50.0, judges=("reference", "llama"), right=RIGHT)
    repository.commit()
    for seed, (name, mean) in enumerate(MEANS.items(), start=1):
        lr = {"slow": 1e-5, "fast": 1e-3}.get(name, 2e-4)
        settings = {"lr": lr, "epochs": {"two-epochs": 2, "slow": 20}.get(name, 1), "schedule": SCHEDULES[name]}
        repository.write(mean=mean or 50.0, seed=seed, judges=("reference", "llama"), keep=name != "slow", **settings)
        if mean is None:
            for path in RESULTS:
                (folder / path).unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GIT_COMMITTER_DATE", f"2020-01-01T0{seed}:00:00+0000")
            repository.keep_as_experiment(name)
    output = folder / "build/view/index.html"
    write_view(folder, output)
    return output


@pytest.fixture
def at(browser, page):
    """The page, fresh; its scripts must make no error."""
    browser.open(page)
    yield browser
    assert browser.errors == []


def rows(browser):
    return browser.run("visibleRows()")


def row_of(browser, name):
    """The selector of a run's row."""
    place = browser.run(f"placeOf({json.dumps(name)})")
    return f'.runs tr[data-run="{place}"]'


def status(browser, part):
    return browser.run(f"document.getElementById('{part}-status').textContent")


def head(key):
    return f'.runs thead [data-col="{key}"] button'


def order_of(browser, key):
    return browser.run(f"document.querySelector('.runs thead [data-col=\"{key}\"]').ariaSort")


def choose(browser, id_, value):
    browser.run(f"choose({json.dumps(id_)}, {json.dumps(value)})")


def fill(browser, id_, text):
    """Type into a field as a person does, and wait until the page has answered."""
    browser.run(f"clear({json.dumps(id_)})")
    browser.type(text)
    browser.run("pause(250)")


def shown(browser):
    """The records of the answers on this page of the list."""
    texts = browser.run("all('#answers-list article').map((article) => article.textContent)")
    return [re.search(r"\br\d+\b", text)[0] for text in texts]


def block_of(page, id_):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(rf'<script type="application/json" id="{id_}">(.*?)</script>', text, re.S)[1])


def scores_of(page, name, system="sft"):
    """A run's scores by record, from the file and not through the page's own scripts."""
    run = next(run for run in block_of(page, "view-data")["runs"] if run["name"] == name)
    ids, scores = block_of(page, run["records"])["id"], block_of(page, run["scores"])
    return dict(zip(ids, scores["reference"][system], strict=True))


# The table


def test_a_click_on_a_head_sorts_by_it_and_another_click_turns_the_order(at):
    assert rows(at)[0] == "main"
    at.click(head("score:reference"))
    assert rows(at) == ["two-epochs", "fast", "main", "slow", "unfinished"]
    assert order_of(at, "score:reference") == "descending"
    at.click(head("score:reference"))
    assert rows(at) == ["slow", "main", "fast", "two-epochs", "unfinished"]  # what has no score stays last
    assert order_of(at, "score:reference") == "ascending"
    at.click(head("val_loss"))
    assert order_of(at, "score:reference") == "none"


def test_settings_are_sorted_as_numbers_not_as_texts(at):
    at.click(head("set:train.lr"))
    assert (rows(at)[0], rows(at)[-1]) == ("fast", "slow")  # 1e-3, 2e-4, 1e-5: as texts 1e-05 would not be the least


def test_settings_that_are_words_and_dates_are_sorted_too(at):
    named = [name for name in SCHEDULES if name != "main"]
    choose(at, "runs-sort", "set:train.schedule")
    in_order = sorted(named, key=SCHEDULES.get)
    assert [name for name in rows(at) if name in named] == in_order[::-1]
    at.click("#runs-turn")
    assert [name for name in rows(at) if name in named] == in_order
    choose(at, "runs-sort", "when")
    assert rows(at) == ["main", "unfinished", "two-epochs", "fast", "slow"]  # the newest first, main is of now
    at.click("#runs-turn")
    assert rows(at) == ["slow", "fast", "two-epochs", "unfinished", "main"]


@pytest.mark.parametrize(
    ("search", "left"),
    [
        ("epochs 2", ["two-epochs"]),  # not 20, nor the 2 in any other cell
        ("epochs=2", ["two-epochs"]),
        ("epochs = 20", ["slow"]),
        ("train.lr 2e-4", ["main", "two-epochs", "unfinished"]),
        ("lr=0.0010", ["fast"]),
        ("steps 40", ["main", "fast", "slow", "two-epochs"]),  # a hidden column
        ("steps 4", []),
        ("schedule=lin", ["fast"]),
        ("linear experiment", ["fast"]),
        ("run=epochs", ["two-epochs"]),
        ("lr 2e-4 epochs 2 constant", ["two-epochs"]),
        ("epochs=", ["main", "fast", "slow", "two-epochs", "unfinished"]),  # not yet typed to its end
    ],
)
def test_a_label_and_a_value_are_found_within_one_cell(at, search, left):
    fill(at, "runs-find", search)
    assert sorted(rows(at)) == sorted(left)


def test_the_keyboard_alone_sorts(at):
    at.run(f"document.querySelector({json.dumps(head('val_loss'))}).focus()")
    at.press("Enter")
    assert rows(at)[0] == "two-epochs"  # the lowest loss first
    at.press("Space")
    assert rows(at)[-2:] == ["two-epochs", "unfinished"]  # without a loss comes last in every order
    assert "sorted by best val loss, descending" in status(at, "runs")


def test_the_list_of_columns_sorts_where_there_are_no_heads(at):
    at.resize(400)
    choose(at, "runs-sort", "score:reference")
    assert rows(at)[0] == "two-epochs"
    at.click("#runs-turn")
    assert rows(at)[0] == "slow"
    choose(at, "runs-sort", "")
    assert rows(at)[0] == "main"


def test_finding_leaves_the_runs_that_hold_all_words(at):
    fill(at, "runs-find", "experiment EPOCHS-")
    assert rows(at) == []
    fill(at, "runs-find", "experiment -EPOCHS")
    assert rows(at) == ["two-epochs"]
    assert status(at, "runs").startswith("1 of 5 runs")


def test_a_column_is_switched_on_and_escape_leads_back(at):
    display = "getComputedStyle(document.querySelector('td[data-col=\"steps\"]')).display"
    assert at.run(display) == "none"
    at.click(".chooser summary")
    at.click('.chooser input[value="steps"]')
    assert at.run(display) != "none"
    at.press("Escape")
    assert at.run("document.querySelector('.chooser').open") is False
    assert at.run("document.activeElement.tagName") == "SUMMARY"


# The curves


def test_curves_of_all_chosen_runs_lie_on_one_chart_each_with_its_own_colour(at):
    lines = at.run("curveLines()")
    assert {line["name"] for line in lines} == {"main", "slow", "fast", "two-epochs"}
    assert {line["points"] for line in lines} == {40}
    assert len({line["colour"] for line in lines}) == len(lines) == 4
    at.click(row_of(at, "main") + " .draw input")
    assert "main" not in {line["name"] for line in at.run("curveLines()")}
    at.click("#curves-none")
    assert at.run("curveLines()") == []
    assert "No run" in status(at, "curves")
    at.click("#curves-all")
    assert len(at.run("curveLines()")) == 4
    assert at.run("all('.draw input:disabled').length") == 1  # the run without curves


def test_arrow_keys_read_the_values_of_the_curves(at):
    at.run("document.getElementById('curves-chart').focus()")
    at.press("ArrowRight", "ArrowRight")
    read = at.run("document.getElementById('curves-reading').textContent")
    assert "step 1:" in read
    assert f"main {2.5 * 0.97:.4g}" in read  # the loss that repository.py writes for a mean of 50
    assert f"two-epochs {2.5 * 0.97 * 50 / 80:.4g}" in read


@pytest.mark.parametrize("what", ["val.loss", "train.loss"])
def test_a_line_breaks_where_the_loss_is_no_number_and_neither_scale_nor_lowest_takes_it_for_zero(
    browser, tmp_path, what
):
    repository = Repository(tmp_path, records=3)
    repository.write(steps=40)
    path = tmp_path / f"metrics/curves/{what.split('.')[0]}.csv"
    head_line, *lines = path.read_text().splitlines()
    for step in (20, 21, 39):
        step_of, tokens, _, lr = lines[step].split(",")
        lines[step] = ",".join((step_of, tokens, "nan", lr))
    path.write_text("\n".join([head_line, *lines]) + "\n")
    write_view(tmp_path, tmp_path / "view.html")
    browser.open(tmp_path / "view.html")
    choose(browser, "curves-what", what)
    (line,) = browser.run("curveLines()")
    assert (line["pieces"], line["points"]) == (2, 37)
    heights = browser.run("all('#curves-chart text[text-anchor=end]').map((text) => Number(text.textContent))")
    assert min(heights) > 0
    read = browser.run("document.getElementById('curves-reading').textContent")
    assert "ends at no finite number" in read
    assert float(re.search(r"lowest ([\d.]+)", read)[1]) > 0.7
    assert browser.errors == []


@pytest.mark.parametrize("what", ["val.loss", "train.loss", "train.lr"])
def test_what_is_drawn_lies_inside_the_chart(at, what):
    choose(at, "curves-what", what)
    assert at.run("curveLines().length") == 4
    assert at.run("linesOutside()") == 0


# The answers


def test_answers_are_shown_a_page_at_a_time(at):
    assert shown(at) == [f"r{i}" for i in range(20)]
    assert status(at, "answers") == "45 of 45 answers"
    at.click("#answers-next")
    at.click("#answers-next")
    assert shown(at) == [f"r{i}" for i in range(40, 45)]
    assert at.run("document.getElementById('answers-next').disabled") is True
    at.click("#answers-back")
    assert shown(at)[0] == "r20"


def test_answers_are_sorted_by_score_and_by_gain(at, page):
    sft, base = scores_of(page, "main"), scores_of(page, "main", "base")
    choose(at, "answers-sort", "low")
    assert shown(at) == sorted(sft, key=sft.get)[:20]
    choose(at, "answers-sort", "loss")
    assert shown(at) == sorted(sft, key=lambda id_: sft[id_] - base[id_])[:20]


def test_filters_leave_exactly_what_they_say(at, page):
    sft, base = scores_of(page, "main"), scores_of(page, "main", "base")
    choose(at, "answers-which", "worse")
    assert at.run(FOUND) == sum(sft[id_] < base[id_] for id_ in sft) > 0
    choose(at, "answers-which", "unended")
    assert at.run(FOUND) == 12  # each fourth of 45 ended by length
    choose(at, "answers-which", "cut")
    assert shown(at) == ["r1"]
    choose(at, "answers-which", "all")
    choose(at, "answers-kind", "facts")
    assert at.run(FOUND) == 15
    choose(at, "answers-kind", "")
    fill(at, "answers-low", "50")
    assert at.run(FOUND) == sum(score >= 50 for score in sft.values())
    at.click("#answers-form button[type=reset]")
    at.run("pause(100)")
    assert at.run(FOUND) == 45


def test_right_and_wrong_stand_beside_the_answers_and_can_be_filtered(at):
    for which, count in {"right": 30, "wrong": 14, "form": 14}.items():  # their similarity is 50 throughout
        choose(at, "answers-which", which)
        assert at.run(FOUND) == count
    choose(at, "answers-which", "all")
    said = "(one) => all('h3').filter((h) => one.contains(h)).map((h) => h.textContent.split(', ')[1] ?? '')"
    heads = at.run(f"all('#answers-list article').slice(0, 12).map({said})")
    assert heads[0] == ["", "", ""] and heads[1] == ["", "right", "right"] and heads[11] == ["", "wrong", "right"]


def test_the_search_finds_in_questions_and_answers_and_marks_what_it_found(at):
    fill(at, "answers-find", "QUESTION r17")
    assert shown(at) == ["r17"]
    assert at.run("all('#answers-list mark').map((one) => one.textContent)") == ["r17", "Question", "r17", "r17"]


def test_two_runs_stand_beside_each_other_with_the_scores_of_each(at, page):
    at.click(row_of(at, "fast") + " .read")
    assert at.run("document.getElementById('answers-run').selectedOptions[0].textContent") == "fast"
    choose(at, "answers-beside", at.run("placeOf('two-epochs')"))
    heads = at.run("all('#answers-list article:first-child h3').map((one) => one.textContent)")
    mine, its = scores_of(page, "fast")["r0"], scores_of(page, "two-epochs")["r0"]
    assert heads == ["reference", f"two-epochs · score {its:.0f}", f"fast · score {mine:.0f}"]


def test_answers_that_another_judge_scored_are_neither_better_nor_worse_and_the_page_says_so(browser, tmp_path):
    repository = Repository(tmp_path, records=6)
    repository.write(judges=("reference", "llama"))
    repository.commit()
    repository.write(mean=90.0, seed=1, judges=("reference", "llama"))
    results = json.loads((tmp_path / "metrics/evaluate.json").read_text())
    next(one for one in results["judges"] if one["name"] == "llama")["identity"]["digest"] = "another"
    repository.put_json("metrics/evaluate.json", results)
    write_view(tmp_path, tmp_path / "view.html")
    browser.open(tmp_path / "view.html")
    choose(browser, "answers-run", browser.run("placeOf('workspace')"))
    choose(browser, "answers-beside", browser.run("placeOf('main')"))
    choose(browser, "answers-which", "better")
    for judge, comparable in (("llama", False), ("reference", True)):
        choose(browser, "answers-judge", judge)
        assert (browser.run(FOUND) > 0) == comparable
        assert ("not comparable" in status(browser, "answers")) != comparable
    choose(browser, "answers-judge", "llama")
    choose(browser, "answers-beside", "base")
    assert browser.run(FOUND) > 0
    assert browser.errors == []


def test_a_run_whose_answers_are_not_in_the_cache_still_shows_its_scores_and_says_so(at):
    choose(at, "answers-run", at.run("placeOf('slow')"))
    assert "not in DVC's cache" in status(at, "answers")
    text = at.run("document.getElementById('answers-list').textContent")
    assert "(the text is not here)" in text
    assert "· score" in text


# The page as a whole


def test_on_paper_there_is_nothing_to_press_and_no_row_is_torn(at):
    pressed = "all('button, input, select, nav').filter((one) => !one.closest('thead'))"
    seen = f"{pressed}.filter((one) => one.checkVisibility()).length"
    assert at.run(seen) > 0
    at.as_printed()
    assert at.run(seen) == 0
    assert at.run("all('.runs tbody tr, article').map((one) => getComputedStyle(one).breakInside)") == ["avoid"] * 25
    assert len(rows(at)) == 5


@pytest.mark.parametrize("width", [320, 400, 768, 1000, 1400])
def test_no_width_makes_the_page_or_its_table_scroll_sideways(browser, page, width):
    browser.open(page, width=width)
    assert browser.run("sideways()") <= 0
    if width != 768:  # below, runs are cards; between, the table may scroll in its own frame
        assert browser.run("(box => box.scrollWidth - box.clientWidth)(document.querySelector('.wide'))") <= 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast(browser, page, dark):
    browser.open(page, dark=dark)
    paper = browser.run("luminance(getComputedStyle(document.body).backgroundColor)")
    assert paper < 0.1 if dark else paper > 0.9
    assert browser.run("weakTexts(4.5)") == []


def test_every_control_has_a_name_and_no_id_stands_twice(at):
    assert at.run("nameless()") == 0
    assert at.run("repeatedIds()") == 0


def test_the_page_asks_for_nothing_but_itself(at, page):
    assert at.requests == [page.resolve().as_uri()]


def test_the_picture_for_the_readme_shows_table_curves_and_an_answer_in_true_colours(browser, page, tmp_path):
    take_picture(browser, page, tmp_path / "view.png")
    assert (tmp_path / "view.png").stat().st_size < 200_000
    pixels = np.asarray(Image.open(tmp_path / "view.png").convert("RGB")).astype(int)
    height, width, _ = pixels.shape
    assert (width, height <= 1400) == (1200, True)

    def has(style, element, part):
        colour = browser.run(f"getComputedStyle(document.querySelector('{element}')).{style}")
        return (pixels[part] == [int(value) for value in re.findall(r"\d+", colour)]).all(axis=2).sum()

    chart, answer = (browser.run(f"document.querySelector('{one}').getBoundingClientRect().toJSON()") for one in PARTS)
    for place in range(4):
        inside = slice(int(chart["top"]), int(chart["bottom"]))
        assert has("stroke", f"#curves-chart path.line:nth-of-type({place + 1})", inside) > 300
    assert answer["bottom"] <= height
    assert has("borderTopColor", PARTS[1], slice(int(answer["top"]), int(answer["top"]) + 4)) > 600
    assert has("color", ".runs .good", slice(0, int(chart["top"]))) > 20


def test_hostile_texts_are_shown_and_never_run(browser, tmp_path):
    repository = Repository(tmp_path, records=3)
    repository.write(text=ATTACK)
    turns = {"system": ATTACK, "history": [{"instruction": ATTACK, "input": "", "output": ATTACK}]}
    hostile = [response(f"r{i}", ATTACK, i, instruction=ATTACK, kind=ATTACK, **turns) for i in range(3)]
    md5 = repository.put_json("data/responses.json", hostile)["md5"]
    results = json.loads((tmp_path / "metrics/evaluate.json").read_text())
    results["systems"][1]["md5"] = md5
    repository.put_json("metrics/evaluate.json", results)
    repository.put("params.yaml", json.dumps({"train": {"lr": ATTACK}}))
    output = tmp_path / "view.html"
    write_view(tmp_path, output)
    browser.open(output)
    assert browser.errors == []
    assert browser.run("window.hacked") is None
    assert browser.run("all('img').length") == 0
    assert browser.run("all('script:not([type])').length") == 1
    assert browser.run("document.querySelector('#answers-list article > .text').textContent") == ATTACK
    folded = "[...document.querySelector('#answers-list details').children].map((one) => one.textContent)"
    said = [f"{who}\n{ATTACK}" for who in ("system", "user", "assistant")]
    assert browser.run(folded) == ["system prompt and 1 earlier turn", *said]
    assert browser.run("document.querySelector('#answers-list details').open") is False


def test_no_script_but_the_pages_own_may_run(browser, page):
    browser.open(page)
    browser.run("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 3'}))")
    assert browser.run("window.hacked") is None
    assert any("Content Security Policy" in error for error in browser.errors)


def test_fifty_runs_and_ten_thousand_answers_stay_one_page_at_a_time(browser, tmp_path):
    repository = Repository(tmp_path, records=200)
    repository.write()
    (one,) = collect_runs(tmp_path)
    runs = [
        replace(
            one,
            revision=Revision(name=f"e{i}", kind="experiment", commit=f"{i:040x}"),
            params={**one.params, "train.lr": i / 1e5},
            run=replace(one.run, train={**one.run.train, "best_val_loss": 1 + i / 100}),
            answers={s: [replace(row, response=f"{s} {i}") for row in rows] for s, rows in one.answers.items()},
        )
        for i in range(50)
    ]
    output = tmp_path / "view.html"
    output.write_text(render(runs, {}, 0, Markup("")), encoding="utf-8")
    browser.open(output)
    assert len(rows(browser)) == 50
    browser.click(head("set:train.lr"))
    assert rows(browser)[0] == "e49"
    assert browser.run("curveLines().length") < 10  # not all at once before they are asked for
    browser.click("#curves-all")
    lines = browser.run("curveLines()")
    assert len(lines) == 50
    styles = [{key: line[key] for key in ("colour", "dash")} for line in lines]
    assert browser.run("legend('#curves-reading .swatch')") == styles
    assert sorted(map(str, browser.run("legend('.runs .key')"))) == sorted(map(str, styles))
    distinct = len(set(map(str, styles)))
    assert distinct >= 30
    assert f"there are {distinct} styles of line, so {50 - distinct} look like another" in status(browser, "curves")
    assert browser.run("all('#answers-list article').length") == 20
    choose(browser, "answers-run", "49")
    fill(browser, "answers-find", "r199 sft")
    assert shown(browser) == ["r199"]
    assert "sft 49" in browser.run("document.getElementById('answers-list').textContent")
    assert browser.errors == []
