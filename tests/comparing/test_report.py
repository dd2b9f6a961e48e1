import json
import re
from hashlib import md5
from html.parser import HTMLParser

import pytest
import yaml
from comparing.small_runs import commit, dvc, git, make_repository, responses, write_run
from markdown_it import MarkdownIt

from instruct.comparing.compare import compare
from instruct.comparing.report import summary_lines, write_report
from instruct.comparing.runs import read_run

IDS = [f"r{i}" for i in range(12)]
BEFORE = [float(5 * i) for i in range(12)]
AFTER = [100.0, 12.0, *(score + 20 for score in BEFORE[2:-1]), 0.0]
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
    write_run(root, {"similarity": BEFORE, "chrf": BEFORE})
    digest = cached(root, responses(IDS, ODD))
    out = {"path": "data/responses.json", "hash": "md5", "md5": digest}
    (root / "dvc.lock").write_text(
        yaml.safe_dump({"schema": "2.0", "stages": {"generate": {"cmd": "true", "outs": [out]}}})
    )
    (root / ".gitignore").write_text("/data\n")
    commit(root)
    git(root, "tag", "first")
    write_run(root, {"similarity": AFTER, "chrf": BEFORE}, params={"train.lr": 0.001})
    metrics = json.loads((root / "metrics/evaluate.json").read_text())
    (root / "metrics/evaluate.json").write_text(json.dumps(metrics | {"extra": {"bleu": 7.25}}))
    (root / "data").mkdir()
    (root / "data/responses.json").write_text(responses(IDS, "after"))
    return root


def cached(root, text):
    digest = md5(text.encode()).hexdigest()
    place = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return digest


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
    assert "extra.bleu" in json.dumps(theirs)
    assert "| metrics/evaluate.json | extra.bleu |  | workspace".replace("workspace", "7.25") in report[1]


def test_regressions_and_gains_are_the_biggest_in_order(report):
    _, markdown, _ = report
    losses, gains = markdown.split("Biggest gains")
    assert re.findall(r"\*\*(r\d+)\*\*", losses) == ["r11"]
    assert re.findall(r"\*\*(r\d+)\*\*", gains)[:3] == ["r0", "r10", "r2"]
    assert "**r0** · riddle: 0 → 100" in gains


def test_answers_that_are_not_at_hand_are_said_to_be_so(repository, tmp_path):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    sides[0][0].lock["stages"]["generate"]["outs"][0]["md5"] = "0" * 32
    for path in write_report(compare(*sides), tmp_path, repository):
        text = path.read_text()
        assert "data/responses.json of first is not in DVC" in text
        assert "after r0" in text and "(not at hand)" in text


def test_what_is_not_comparable_is_marked_everywhere(repository, tmp_path):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    sides[1][0].evaluate["test"]["template"] = "phi3"
    comparison = compare(*sides, anyway=True)
    assert any(line.startswith("NOT COMPARABLE: the template: alpaca") for line in summary_lines(comparison))
    for path in write_report(comparison, tmp_path, repository):
        text = path.read_text()
        assert "Not comparable." in text and "the template: alpaca" in text
        assert "is better" not in text and "| better" not in text and ">better<" not in text


def test_the_same_runs_give_the_same_bytes(report, repository, tmp_path):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    again = [path.read_text() for path in write_report(compare(*sides), tmp_path, repository)]
    assert again == [report[1], report[2]]


def test_a_folder_that_is_no_dvc_repository_still_gets_its_report(tmp_path):
    root = make_repository(tmp_path / "bare")
    write_run(root, {"x": BEFORE})
    commit(root)
    sides = [[read_run(name, root)] for name in ("HEAD", "workspace")]
    markdown, _ = write_report(compare(*sides), tmp_path / "out", root)
    text = markdown.read_text()
    assert "dvc metrics diff: 0 metrics; dvc metrics diff shows no difference" in text
    assert "the dvc.lock of HEAD does not name data/responses.json, so its answers are not shown." in text


def test_what_dvc_could_not_load_is_said(repository, tmp_path):
    (repository / "dvc.lock").write_text("stages: {generate: {}}\n")
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    try:
        for path in write_report(compare(*sides), tmp_path, repository):
            assert "DVC failed to load some metrics for following revisions: " in path.read_text()
    finally:
        git(repository, "checkout", "-q", "dvc.lock")


def judged(mean):
    return {
        "tuned": {"mean": mean, "low": mean - 3, "high": mean + 3, "scored": 12, "unscored": 0},
        "difference": {"mean": mean - 10, "low": mean - 13, "high": mean - 7, "p_value": 0.001},
    }


@pytest.mark.parametrize(
    ("changed", "finding"), [(False, r"\*\*rising\*\* mean 40.0 before, 60.0"), (True, r"\*\*unknown\*\* one run")]
)
def test_the_next_step_takes_the_run_before_where_that_one_is_comparable(repository, tmp_path, changed, finding):
    sides = [[read_run(name, repository)] for name in ("first", "workspace")]
    for (run,), mean in zip(sides, (40.0, 60.0), strict=True):
        run.evaluate["judges"]["reference"] = judged(mean)
        run.train["initial_val_loss"] = 4.0
    if changed:
        sides[1][0].evaluate["test"]["template"] = "phi3"
    markdown, page = write_report(compare(*sides, anyway=True), tmp_path, repository)
    assert re.search(rf"\| score plateau \| {finding}", markdown.read_text())
    assert "falling if the last evaluation" in page.read_text()


def test_a_run_that_tells_no_losses_gets_no_next_step(report):
    assert "What next" not in report[1] + report[2]
