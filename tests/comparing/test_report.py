import json
import re
from dataclasses import replace
from hashlib import md5
from html.parser import HTMLParser

import pytest
from comparing.small_runs import commit, dvc, git, make_repository, responses, write_lock, write_run
from markdown_it import MarkdownIt
from results.sample import answer, make_run

import instruct.comparing.report as report_module
from instruct.comparing.charts import draw_charts
from instruct.comparing.compare import compare
from instruct.comparing.report import signals_of, summary_lines, write_report
from instruct.core.records import Response, as_row
from instruct.report.markdown import cell, line, summary
from instruct.results.runs import read_run
from instruct.results.stored import Cache, read_answers

pytestmark = pytest.mark.usefixtures("warm_start")
IDS = [f"r{i}" for i in range(12)]
BEFORE = [float(5 * i) for i in range(12)]
AFTER = [100.0, 12.0, *(score + 20 for score in BEFORE[2:-1]), 0.0]
SIMILARITY = "similarity to the reference answer"
ODD = "a | b\n```\n<script>alert(1)</script> & `x` <img src=//x.y/z>"


class Page(HTMLParser):
    """Collects what a browser would load or run, and the text."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Run `first` is committed with its answers in DVC's cache, the second lies in the workspace."""
    root = make_repository(tmp_path_factory.mktemp("report") / "repository", with_dvc=True)
    write_run(root, {"similarity": BEFORE}, md5s={"sft": put_answers(root, responses(IDS, ODD, ODD))})
    (root / "metrics/summary.json").write_text("{}")
    (root / ".gitignore").write_text("/data\n")
    commit(root)
    git(root, "tag", "first")
    digest = put_answers(root, responses(IDS, "after", ODD))
    write_run(root, {"similarity": AFTER}, params={"train.lr": 0.001}, md5s={"sft": digest})
    (root / "metrics/summary.json").write_text('{"score_sft": 7.25}')
    return root


def put_answers(root, text):
    """Answers in the workspace, in DVC's cache and in dvc.lock; returns their md5."""
    digest = md5(text.encode()).hexdigest()
    for place in (root / "data/responses.json", root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    write_lock(root, outs=["data/responses.json"])
    return digest


@pytest.fixture
def without_charts(monkeypatch):
    """For what no chart shows: drawing takes most of a report's time."""
    monkeypatch.setattr(report_module, "draw_charts", lambda comparison: {})


@pytest.fixture(scope="module")
def report(repository, tmp_path_factory):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    comparison = compare(*sides)
    markdown, page = write_report(comparison, tmp_path_factory.mktemp("out"), repository)
    return comparison, markdown.read_text(), page.read_text()


def test_the_page_needs_nothing_else_and_runs_nothing(report):
    page = Page()
    page.feed(report[2])
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert page.tags.count("svg") == 4
    assert "url(http" not in report[2] and "@import" not in report[2]


def test_texts_of_data_stay_text(report):
    page = Page()
    page.feed(report[2])
    assert ODD + " r0" in page.text
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(report[1])
    shown = [token.content for token in tokens if token.type == "fence"]
    assert f"{ODD} r0\n" in shown and "after r0\n" in shown and "right r0\n" in shown and "Ask <b>r0</b>\n" in shown
    assert f"earlier {ODD}\n" in shown and f"said {ODD}\n" in shown
    together = "".join(page.text)
    assert f"user\nearlier {ODD}" in together and f"assistant\nsaid {ODD}" in together
    raw = [child for token in tokens for child in [token, *(token.children or [])] if child.type.startswith("html")]
    assert {re.sub(r"\s", "", token.content) for token in raw} <= {"</details>", *(
        re.sub(r"\s", "", line) for line in report[1].splitlines() if line.startswith("<details>")
    )}  # fmt: skip


def test_both_reports_say_what_the_terminal_says(report):
    comparison, markdown, page = report
    lines = summary_lines(comparison)
    assert lines[-1] == comparison.verdict
    assert lines[0] == "first → workspace: 12 records in 12 groups of near-duplicates"
    assert "train.lr: 0.0002 → 0.001" in lines
    for text in (markdown, page):
        assert comparison.verdict in text
        assert "not distinguishable (the same on every record)" in text
        for score in comparison.scores:
            assert f"{score.difference.low:+.1f} to {score.difference.high:+.1f}" in text
            assert f"{score.wins} / {score.ties} / {score.losses}" in text
    assert "| train.lr | 0.0002 | 0.001 |" in markdown


def test_metrics_are_those_of_dvc(report, repository):
    theirs = json.loads(dvc(repository, "metrics", "diff", "--json", "first"))
    assert "score_sft" in json.dumps(theirs)
    assert "| score_sft |  | 7.25 |  | metrics/summary.json |" in report[1].replace("\\_", "_")


def test_regressions_and_gains_are_the_biggest_in_order(report):
    _, markdown, _ = report
    losses, gains = markdown.split("Biggest gains")
    assert re.findall(r"\*\*(r\d+)\*\*", losses) == ["r11"]
    assert re.findall(r"\*\*(r\d+)\*\*", gains)[:3] == ["r0", "r10", "r2"]
    assert "**r0** · riddle: 0 → 100" in gains


def test_answers_that_are_not_at_hand_are_said_to_be_so(repository, tmp_path, without_charts):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    sides[0][0].lock["stages"]["evaluate"]["outs"][0]["md5"] = "0" * 32
    for path in write_report(compare(*sides), tmp_path, repository):
        text = path.read_text()
        assert "data/responses.json of first is not in DVC" in text
        assert "after r0" in text and "(not at hand)" in text


def test_what_is_not_comparable_is_marked_everywhere(repository, tmp_path, without_charts):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    sides[1] = [with_other_test(sides[1][0])]
    comparison = compare(*sides, anyway=True)
    assert any(line.startswith("NOT COMPARABLE: the test set: 12 records") for line in summary_lines(comparison))
    for path in write_report(comparison, tmp_path, repository):
        text = path.read_text()
        assert "Not comparable." in text and "the test set: 12 records" in text
        assert "is higher" not in text and "| higher" not in text and ">higher" not in text


def test_the_same_runs_give_the_same_bytes(report, repository, tmp_path):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    again = [path.read_text() for path in write_report(compare(*sides), tmp_path, repository)]
    assert again == [report[1], report[2]]


def test_a_folder_that_is_no_dvc_repository_still_gets_its_report(tmp_path, without_charts):
    root = make_repository(tmp_path / "bare")
    write_run(root, {"x": BEFORE})
    commit(root)
    sides = [[read_run(name, root)] for name in ("HEAD", "workspace")]
    markdown, _ = write_report(compare(*sides), tmp_path / "out", root)
    text = markdown.read_text()
    assert "dvc metrics diff: 0 metrics; dvc metrics diff shows no difference" in text
    assert "the dvc.lock of HEAD does not name data/responses.json, so its answers are not shown." in text


def test_what_dvc_could_not_load_is_said(repository, tmp_path, without_charts):
    summary = repository / "metrics/summary.json"
    before = summary.read_text()
    summary.write_text("{")
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    try:
        for path in write_report(compare(*sides), tmp_path, repository):
            assert "DVC failed to load some metrics for following revisions: " in path.read_text()
    finally:
        summary.write_text(before)


def with_other_test(run):
    return replace(run, results=replace(run.results, test=replace(run.results.test, sha256="f" * 64)))


def with_signals(side, mean):
    for run in side:
        run.train["initial_val_loss"] = 4.0
    return [replace(run, results=judged(run.results, mean)) for run in side]


def judged(results, mean):
    """The same results, as if the SFT model's mean were another; its records' scores stay."""
    (judge,) = results.judges
    base, sft = judge.systems
    sft = replace(sft, mean=mean, low=mean - 3, high=mean + 3)
    return replace(results, judges=(replace(judge, systems=(base, sft)),))


@pytest.mark.parametrize(
    ("after", "changed", "chosen", "finding"),
    [
        ([score + 20 for score in BEFORE], False, [], f"rising: {SIMILARITY}: mean 27.5 before, 47.5 now"),
        ([score / 2 for score in BEFORE], False, [], f"falling: {SIMILARITY}: mean 27.5 before, 13.8 now"),
        (
            [score + (5, -5)[i % 2] for i, score in enumerate(BEFORE)],
            False,
            [],
            f"plateau: {SIMILARITY}: mean 27.5 before, 27.5 now",
        ),
        # Similarity rises, and the score that the verdict is about does not.
        ([score + 20 for score in BEFORE], False, ["chrf"], "plateau: chrf: mean 50.0 before, 50.0 now"),
        (AFTER, True, [], "unknown: one run"),
    ],
)
def test_the_next_step_and_the_verdict_say_the_same_of_the_primary_score(repository, after, changed, chosen, finding):
    first, second = (read_run(name, repository) for name in ("first", "workspace"))
    second = with_scores(second, dict(zip(IDS, after, strict=True)))
    (first,), (second,) = with_signals([first], 40.0), with_signals([second], 60.0)
    if changed:
        second = with_other_test(second)
    row = signals_of(compare([first], [second], anyway=True, chosen=chosen))[2]
    assert row.signal == "score plateau" and f"{row.finding}: {row.numbers}".startswith(finding)


def with_scores(run, values):
    """The run with these scores of the SFT model by its only judge, and so its similarity."""
    scores = {
        name: {"base": one["base"], "sft": values if name in ("reference", "similarity") else one["sft"]}
        for name, one in run.table.scores.items()
    }
    return replace(run, table=replace(run.table, scores=scores))


def test_a_run_that_tells_no_losses_gets_no_next_step(report):
    assert "What next" not in report[1] + report[2]


def seeds_of(run, name, *, shift):
    """Two seeds of a run: the second one's scores are those of the first and `shift`, its name and seed its own."""
    scores = {id_: min(100.0, value + shift.get(id_, 0)) for id_, value in run.scores["similarity"].items()}
    params = run.params | {"train": {**run.params["train"], "seed": 9}}
    return [replace(run, name=f"{name}1"), replace(with_scores(run, scores), name=f"{name}2", params=params)]


def test_with_several_seeds_changes_are_means_and_everything_else_is_of_the_run_that_it_names(repository, tmp_path):
    first, second = (read_run(name, repository) for name in ("first", "workspace"))
    # r5 gains 20 in the first seed and 70 in the other: 45 in the mean, second to r0 only.
    sides = [seeds_of(first, "a", shift={}), seeds_of(second, "b", shift={"r5": 50})]
    sides = [with_signals(side, 50.0) for side in sides]
    comparison = compare(*sides)
    markdown, page = (path.read_text() for path in write_report(comparison, tmp_path, repository))
    gains = markdown.split("Biggest gains")[1]
    assert re.findall(r"\*\*(r\d+)\*\*", gains)[:2] == ["r0", "r5"]
    assert "**r5** · riddle: 25 → 70" in gains
    assert "\na1:\n" in gains and "\nb1:\n" in gains
    assert "Scores are means over each side's runs, answers those of the first run of each side." in gains
    assert "### Parameters of the first run of each side" in markdown and "| parameter | a1 | b1 |" in markdown
    assert "<summary>dvc metrics diff of the first run of each side: " in markdown
    assert "| metric | a1 | b1 | change | file |" in markdown
    assert "### What next, after b1" in markdown
    assert "| score | a1 + a2 | b1 + b2 |" in markdown
    for head in ("Parameters of the first run of each side", "dvc metrics diff of the first run of each side"):
        assert f"<h2>{head}</h2>" in page
    assert f"| score plateau | **plateau** {SIMILARITY}: mean 27.5 before, " in markdown
    assert "falling if the last evaluation" in page
    assert "What next, after b1</h2>" in page and "<h3>a1</h3>" in page and "<h3>b1</h3>" in page
    assert "on every record, mean over each side&#39;s runs" in page
    assert "train.lr: 0.0002 → 0.001 (in the first run of each side)" in summary_lines(comparison)


def test_results_of_other_settings_are_marked_everywhere(repository, tmp_path, without_charts):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    lines = ("train.lr is 0.001 in params.yaml, 0.0002 in dvc.lock: run dvc repro", *(f"line {i}" for i in range(20)))
    sides[1] = [replace(sides[1][0], stale=lines)]
    comparison = compare(*sides)
    assert f"STALE: workspace: {lines[0]}" in summary_lines(comparison)
    markdown, page = (path.read_text() for path in write_report(comparison, tmp_path, repository))
    assert markdown.splitlines()[1].startswith("> **Stale.**")
    assert f"> - workspace: {lines[0]}\n" in markdown and "> - and 11 more; see report.html\n" in markdown
    assert "<b>Stale.</b> These results" in page and all(f"<li>workspace: {line}</li>" in page for line in lines)
    tokens = MarkdownIt("commonmark").parse(markdown)
    (place,) = [i for i, token in enumerate(tokens) if token.content.startswith("**These two models differ")]
    assert tokens[place - 1].level == 0  # the verdict does not fall into the quotation


@pytest.mark.parametrize("counts", [{"equal": 0, "near": 35}, {"equal": 0, "near": 2, "turn": 35}])
def test_a_leaked_test_set_is_marked_beside_the_verdict_once_for_all_runs_alike(
    repository, tmp_path, without_charts, counts
):
    split = {"test": 36, "across": {"test": counts}}
    runs = [replace(read_run(name, repository), split=split) for name in ("first", "workspace")]
    line = f"first, workspace: {runs[0].leak}"
    for sides, leaked in (([[one] for one in runs], line), ([[runs[0]], [replace(runs[1], split={})]], line[:5])):
        comparison = compare(*sides)
        (said,) = [one for one in summary_lines(comparison) if one.startswith("LEAKED: ")]
        assert said.startswith(f"LEAKED: {leaked}") and "35 of 36 test records" in said
        markdown, page = (path.read_text() for path in write_report(comparison, tmp_path, repository))
        text = said.removeprefix("LEAKED: ")
        (place,) = [at for at, one in enumerate(markdown.splitlines()) if one == f"**Leaked.** {text}."]
        assert markdown.splitlines()[place - 2].startswith("**These two models differ")
        assert f"Leaked. {text}." in page.split("<h2>Scores</h2>")[0]


def test_answers_that_are_not_those_that_were_judged_are_not_shown(repository, tmp_path, without_charts):
    file = repository / "data/responses.json"
    before = file.read_text()
    file.write_text(responses(IDS, "meanwhile"))
    try:
        sides = [[read_run(name, repository)] for name in ("first", "workspace")]
        for path in write_report(compare(*sides), tmp_path, repository):
            text = path.read_text()
            assert "meanwhile r0" not in text and "(not at hand)" in text
            assert "data/responses.json of workspace is not what was judged" in text
    finally:
        file.write_text(before)


GOOD = as_row(answer("r0", "told"))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{key: value for key, value in GOOD.items() if key != "output"}]),
        json.dumps([{key: value for key, value in GOOD.items() if key != "id"}]),
        *(json.dumps([GOOD | {key: None}]) for key in ("id", "instruction", "output", "response")),
        json.dumps([GOOD | {"input": 3}]),
        json.dumps([GOOD | {"id": ["r0"]}]),
        json.dumps({"r0": GOOD}),
        json.dumps([None]),
        "[" * 100_000,
        "",
    ],
)
def test_a_file_without_responses_is_a_reason(tmp_path, text):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/responses.json").write_text(text)
    scores = {"x": {"base": [1.0], "sft": [1.0]}}
    run = make_run("workspace", scores, md5s={"sft": md5(text.encode()).hexdigest()})
    rows, reason = read_answers(run, "sft", Cache(tmp_path))
    assert rows == [] and "data/responses.json of workspace" in reason


def test_half_a_character_in_an_answer_is_a_question_mark(repository, tmp_path, without_charts):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    text = json.dumps([GOOD | {"id": id_, "response": "half \ud83d of one"} for id_ in IDS])
    put = repository / "data/responses.json"
    before = put.read_text()
    put.write_text(text)
    systems = [replace(one, md5=md5(text.encode()).hexdigest()) for one in sides[1][0].results.systems]
    sides[1] = [replace(sides[1][0], results=replace(sides[1][0].results, systems=tuple(systems)))]
    try:
        for path in write_report(compare(*sides), tmp_path, repository):
            assert "half ? of one" in path.read_text(encoding="utf-8")
    finally:
        put.write_text(before)


# report.md as GitHub shows it

LIVE = "a_b_c *x* [t](//u.v) ![i](j) ~~s~~ `k` $m$ <b> &amp; \\ | #1 @all see org/r#12 GH-3 https://x.y www.x.y e@x.y"
KEPT = ["train.lr", "exact_match", "0.0002", "-3.5", "main", "HEAD~1", "v1.0", "[1, 2]", "ollama:qwen2.5:7b"]


def shown(markdown):
    """The text of the only table cell, and the kinds of tokens that it came from."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(f"| head |\n|---|\n| {markdown} |\n")
    (cell,) = [token for token in tokens if token.type == "inline" and token.content != "head"]
    return "".join(child.content for child in cell.children), {child.type for child in cell.children}


@pytest.mark.parametrize("text", [LIVE, *KEPT, "- a", "1. a", "> a", "# a", "+ a", "= a", "12) a", "***", "__init__"])
@pytest.mark.parametrize("spell", [cell, line])
def test_words_of_others_are_shown_as_they_are_and_call_nobody(text, spell):
    said, kinds = shown(spell(text))
    assert said.replace("\u200d", "") == text
    assert kinds <= {"text", "text_special"}
    blocks = [token.type for token in MarkdownIt("commonmark").parse(spell(text))]
    assert blocks == ["paragraph_open", "inline", "paragraph_close"]
    # What GitHub turns into links: it looks for mentions and issues in the finished text, for addresses in the source.
    assert not re.search(r"[@#]\w|GH-\d", said, re.IGNORECASE)
    assert "://" not in spell(text) and "www." not in spell(text)


@pytest.mark.parametrize("name", ["train.lr", "0.0002", "-3.5", "main", "v1.0", "r12", "llama3:8b"])
def test_usual_names_stand_unchanged_in_the_source(name):
    assert cell(name) == name


def test_names_inside_html_are_escaped_for_html(tmp_path):
    assert summary("exact_match") == "exact_match"
    assert summary("<b>\n\n@all 'x'") == "&lt;b&gt; @\u200dall &#39;x&#39;"


def test_a_cell_and_a_line_have_an_end():
    assert cell("x" * 200) == "x" * 200 and cell("x" * 201) == "x" * 200 + "…"
    assert len(line("[" * 5000)) < 2100


@pytest.mark.parametrize(
    ("answer_length", "metrics", "settings", "left_out"),
    [
        (10, 10, 10, set()),
        (600, 10, 10, set()),
        (600, 1200, 10, {"examples"}),
        (10, 1500, 10, {"examples", "metrics"}),
        (10, 1500, 400, {"examples", "metrics", "parameters"}),
    ],
)
def test_the_comment_fits_whatever_the_runs_hold(
    repository, tmp_path, monkeypatch, without_charts, answer_length, metrics, settings, left_out
):
    first, second = (read_run(name, repository) for name in ("first", "workspace"))
    second = replace(second, params=second.params | {f"s{i}": "v" * 300 for i in range(settings)})
    texts = dict.fromkeys(("instruction", "output", "response"), "w" * answer_length)
    told = [Response(**{**vars(answer(id_, "")), **texts}) for id_ in IDS]
    monkeypatch.setattr(report_module, "read_answers", lambda *_: (told, ""))
    rows = [{"file": "metrics/x.json", "key": f"k{i}", "old": "1", "new": "2", "diff": "1"} for i in range(metrics)]
    monkeypatch.setattr(report_module.MetricsDiff, "read", lambda _: (rows, ""))
    markdown, page = (path.read_text() for path in write_report(compare([first], [second]), tmp_path, repository))
    assert len(markdown) <= 60_000
    assert ("w" * answer_length not in markdown) == ("examples" in left_out)
    assert (f"| k{metrics - 1} |" not in markdown) == ("metrics" in left_out)
    assert ("| s0 | absent |" not in markdown) == ("parameters" in left_out)
    # Examples are left out twice: losses and gains.
    assert markdown.count("left out to fit; see report.html") == len(left_out) + ("examples" in left_out)
    assert f'<th scope="row">k{metrics - 1}</th>' in page and "w" * answer_length in page
    assert comparison_line(markdown)


def comparison_line(markdown):
    return "**These two models differ: workspace is higher in similarity than first.**" in markdown


# Charts


@pytest.mark.parametrize("name", ["a$b$", "$\\frac{$", "_hidden", "x^{y", "$"])
def test_a_name_is_drawn_as_it_is(repository, name):
    sides = [[replace(read_run("first", repository), name=name)], [read_run("workspace", repository)]]
    for side in sides:
        side[0].table.scores[name] = side[0].table.scores["chrf"]
    charts = draw_charts(compare(*sides))
    legend = charts["Loss in validation"].unescape()
    assert name in legend and name in charts["Difference of every score, with its 95 % interval"].unescape()


@pytest.mark.parametrize(
    ("losses", "gaps"),
    [
        ((3, "nan", 1, 0), 1),
        ((3, "inf", "-inf", 0), 2),
        ((3, 1e308, -1e308, 0), 2),
        (("nan",) * 4, 4),
        ((3, 2, 1, 0), 0),
    ],
)
def test_losses_that_no_axis_can_show_are_left_out_and_counted(repository, losses, gaps):
    first, second = (read_run(name, repository) for name in ("first", "workspace"))
    rows = [{"step": float(i), "loss": float(loss)} for i, loss in enumerate(losses)]
    charts = draw_charts(compare([first], [replace(second, curves=second.curves | {"val": rows})]))
    said = f" ({gaps} points beyond what can be drawn left out)" if gaps else ""
    assert f"Loss in validation{said}" in charts and "Loss in training" in charts


def test_the_table_of_what_next_can_be_read_without_scrolling(browser, repository, tmp_path, without_charts):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    sides = [with_signals(side, 50.0) for side in sides]
    _, page = write_report(compare(*sides), tmp_path, repository)
    browser.open(page, width=1000)
    wide = browser.run(
        "all('.words').map((table) => table.parentElement.scrollWidth - table.parentElement.clientWidth)"
    )
    assert wide == [0, 0]
    assert browser.run("getComputedStyle(document.querySelector('.words td')).textAlign") == "left"
