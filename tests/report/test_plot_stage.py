import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import warm
from markupsafe import Markup
from report.run_folder import OLLAMA, make_run
from results.sample import ANSWERS

import plot
from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.records import Turn
from instruct.results.runs import EVALUATE, SPLIT
from instruct.results.schema import dump, load

ROOT = Path(__file__).parents[2]
ARGUMENTS = ("metrics/report/index.html",)
BASE, SFT = [10, None, 30, 80, 100, 0, 50], [60, 70, None, 40, 100, 100, 50]
ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} & \"quoted\" <!-- "
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and visible text; `unclosed` is empty where every element ends."""

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.attributes, self.unclosed = text, [], [], []
        self._texts = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag
        self._texts.append(" " if tag in ("td", "th", "h3") else "")

    def handle_data(self, data):
        self._texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self._texts).split())


def run_plot(folder, **environment):
    """The stage as DVC runs it; most tests call its `main`, which spares them the imports."""
    return warm.python(ROOT / "src/plot.py", *ARGUMENTS, cwd=folder, env={**os.environ, **environment})


def draw(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plot.main(*map(Path, ARGUMENTS))


def sections_of(page, *titles):
    """The source of each section by the beginning of its heading."""
    parts = {part.split("<h2>")[1]: part for part in page.source.split("<section")[1:]}
    return [next(part.split("</section>")[0] for head, part in parts.items() if head.startswith(t)) for t in titles]


def page_of(folder, base, sft, **fields):
    make_run(folder, base, sft, **fields)
    draw(folder)
    page = Page((folder / "metrics/report/index.html").read_text(encoding="utf-8"))
    assert page.unclosed == []
    return page


@pytest.fixture
def without_figures(monkeypatch):
    """For what no figure shows: drawing takes most of a page's time."""
    monkeypatch.setattr("instruct.report.gather.chart", lambda name, draw: Markup())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    page_of(folder, BASE, SFT)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "metrics/report/index.html").read_text(encoding="utf-8"))


def test_the_page_is_the_same_bytes_in_a_second_process(folder):
    path = folder / "metrics/report/index.html"
    before = path.read_bytes()
    path.unlink()
    done = run_plot(folder, PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


def test_the_page_is_one_file_that_loads_nothing(page):
    elsewhere = re.sub(r'xmlns(:\w+)?="http://www\.w3\.org/[^"]*"', "", page.source)
    assert re.findall(r"(?i)(?:https?:)?//\w[^\s\"'<>]*", elsewhere) == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "image"} & set(page.tags)
    links = [value for name, value in page.attributes if name.split(":")[-1] in ("src", "href", "srcset", "data")]
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page.source
    assert re.findall(r"url\((?!#)", page.source) == []
    assert ("http-equiv", "Content-Security-Policy") in page.attributes


def test_the_page_shows_every_number_with_its_denominators(page, folder):
    (one,) = load((folder / EVALUATE).read_text(encoding="utf-8"), EVALUATE).judges
    for of in one.systems:
        assert f"{of.mean:.1f} {of.low:.1f} to {of.high:.1f}" in page.text
        assert f"{of.q1:.0f} / {of.median:.0f} / {of.q3:.0f}" in page.text
        assert f"{of.worst_case:.1f} or {of.best_case:.1f}" in page.text
    assert "records scored 6 6 5 in both" in page.text
    assert "not scored 1 1" in page.text
    assert "won / tied / lost 2 / 2 / 1 p = 0.5" in page.text
    assert "over 5 records: 2 won, 2 tied, 1 lost." in page.text
    assert "12 training, 3 validation and 3 test records" in page.text
    assert "3.250 before the first step, 1.500 at its best (step 4), 1.750 at the end" in page.text
    assert "base model: 7 by end of text; SFT model: 7 by end of text." in page.text
    assert "too long: 0 of the base model, 0 of the SFT model" in page.text
    assert page.tags.count("svg") == 3


def test_worst_improved_and_regressed_are_listed_up_to_the_number_of_params(page):
    worst, improved, regressed = sections_of(page, "Worst", "Most improved", "Most regressed")
    shown = [re.findall(r"sft answer \d", part) for part in (worst, improved, regressed)]
    assert shown == [
        ["sft answer 2", "sft answer 3", "sft answer 6"],
        ["sft answer 5", "sft answer 0"],
        ["sft answer 3"],
    ]
    assert "not scored" in worst.split("sft answer 2")[0]
    assert re.findall(r"score \d+", improved) == ["score 0", "score 100", "score 10", "score 60"]


def test_every_figure_and_column_has_a_name_for_those_who_do_not_see(page):
    attributes = dict.fromkeys(page.attributes)
    assert ("lang", "en") in attributes
    assert page.tags.count("figure") == len([name for name, value in page.attributes if value == "img"]) == 3
    named = page.tags.count("figure") + page.tags.count("nav") + page.tags.count("table")
    assert len([value for name, value in page.attributes if name == "aria-label"]) == named
    assert page.source.count("<th ") == page.tags.count("th") == len([n for n, _ in page.attributes if n == "scope"])
    assert page.tags.count("h1") == page.tags.count("main") == 1
    places = {value for name, value in page.attributes if name == "id"}
    links = {value for name, value in page.attributes if name == "href" and value}
    assert (
        {f"#{name}" for name in ("scores", "data", "judges", "answers")} <= links <= {f"#{place}" for place in places}
    )


def test_texts_from_data_are_shown_and_never_run(tmp_path, without_figures):
    attacks = {field: f"{ATTACK}in the {field}" for field in ("instruction", "input", "output", "response")}
    page = page_of(tmp_path, [10.0], [20.0], **attacks)
    assert not {"script", "img"} & set(page.tags)
    assert all(" ".join(attack.split()) in page.text for attack in attacks.values())


def test_earlier_turns_of_a_chat_are_folded_above_its_question_and_never_run(without_figures, tmp_path):
    history = (Turn(ATTACK, "its input", "one"), Turn("two", "", ATTACK))
    page = page_of(tmp_path, [10.0], [20.0], system=ATTACK, history=history, instruction="the last question")
    assert not {"script", "img"} & set(page.tags)
    attack = " ".join(ATTACK.split())
    said = f"system prompt and 2 earlier turns system {attack} user {attack} its input assistant one user two assistant"
    assert f"{said} {attack} the last question" in page.text
    assert '<details><summary class="soft">system prompt and 2' in page.source  # not open


def test_a_record_of_one_question_has_nothing_folded_above_it(without_figures, tmp_path):
    page = page_of(tmp_path, [10.0], [20.0])
    assert "earlier turn" not in page.text and "system prompt" not in page.text


def test_half_a_character_is_a_question_mark(without_figures, tmp_path):
    make_run(tmp_path, [10, 20], [60, 70])
    path = tmp_path / ANSWERS["sft"]
    path.write_text(path.read_text(encoding="utf-8").replace("sft answer 1", "half \\ud83d of one"), encoding="utf-8")
    draw(tmp_path)
    assert "half ? of one" in (tmp_path / "metrics/report/index.html").read_text(encoding="utf-8")


def test_a_hostile_name_of_a_model_is_shown_and_never_run(tmp_path):
    page = page_of(tmp_path, [10.0], [20.0], identity={**OLLAMA, "model": "<script>$x_$</script>"})
    assert "script" not in page.tags
    assert "judged by <script>$x_$</script> through ollama" in page.text


def test_the_judge_is_named_in_full(without_figures, tmp_path):
    page = page_of(tmp_path, [10.0, 20.0], [20.0, 30.0], judges=("ollama",), identity=OLLAMA)
    assert "ollama: judged by llama3:8b through ollama, from 0 to 100" in page.text
    for part in ("model llama3:8b", "digest 365c0bd3", "num ctx 4096"):
        assert part in page.text


def test_without_any_score_the_page_says_so_and_still_shows_the_answers(tmp_path):
    page = page_of(tmp_path, [None] * 3, [None] * 3)
    assert "No record has a score for both systems, so nothing can be said." in page.text
    assert "mean none none none" in page.text
    assert "records scored 0 0 0 in both not scored 3 3" in page.text
    assert page.text.count("not scored") >= 6
    assert "sft answer 0" in page.text
    assert page.text.count("None.") == 2  # improved and regressed


@pytest.mark.parametrize(
    ("base", "sft", "words"),
    [
        ([10.0] * 12, [60.0] * 12, "SFT model is better than base model: +50.0 points"),
        ([60.0] * 12, [10.0] * 12, "SFT model is worse than base model: -50.0 points"),
        ([50.0] * 12, [50.0] * 12, "SFT model and base model are not distinguishable: +0.0 points"),
    ],
)
def test_the_page_begins_with_the_verdict(without_figures, tmp_path, base, sft, words):
    page = page_of(tmp_path, base, sft)
    assert words in page.text.split("Scores on the held-out")[0]


def test_a_leaked_test_set_is_named_beside_the_verdict(without_figures, tmp_path):
    make_run(tmp_path, [10.0] * 12, [60.0] * 12)
    leaked = {"test": {"equal": 2, "near": 11}, "val": {"equal": 0, "near": 1}}
    for across, there in ((leaked, True), (leaked | {"test": {"equal": 0, "near": 0}}, False)):
        split = {"train": 12, "val": 3, "test": 12, "across": across}
        write_json(tmp_path / SPLIT, split)
        draw(tmp_path)
        text = Page((tmp_path / "metrics/report/index.html").read_text(encoding="utf-8")).text
        above = text.split("Scores on the held-out")[0]
        assert ("11 of 12 test records have a near-duplicate in train" in above) == there == ("memory" in above)


def test_records_that_are_few_groups_are_said_to_be_few_beside_the_verdict_and_each_judge(without_figures, tmp_path):
    make_run(tmp_path, [60.0] * 12, [10.0] * 12, judges=("reference", "llama"))
    scores = tmp_path / "metrics/scores.csv"
    text = scores.read_text(encoding="utf-8")
    scores.write_text(
        re.sub(r"(?m)^(r(\d+),facts),[^,]*", lambda m: f"{m[1]},g{int(m[2]) % 2}", text), encoding="utf-8"
    )
    draw(tmp_path)
    text = Page((tmp_path / "metrics/report/index.html").read_text(encoding="utf-8")).text
    assert text.count("over 12 records in 2 groups of near-duplicates: 0 won") == 3


def test_empty_and_multi_line_answers_stay_visible(without_figures, tmp_path):
    page = page_of(tmp_path, [0.0], [0.0], response="", output="1.\n2.\n  3.")
    assert "(empty)" in page.text
    assert "1.\n2.\n  3.</p>" in page.source


def test_a_missing_file_is_one_line_and_leaves_the_old_page(without_figures, tmp_path):
    page_of(tmp_path, [0.0], [0.0])
    before = (tmp_path / "metrics/report/index.html").read_bytes()
    (tmp_path / EVALUATE).unlink()
    done = run_plot(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("plot.py: ")
    assert EVALUATE in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "metrics/report/index.html").read_bytes() == before


@pytest.mark.parametrize("name", ["data/responses.json", "metrics/curves/val.csv", "metrics/split.json"])
def test_every_missing_file_is_named(tmp_path, name):
    make_run(tmp_path, [0.0], [0.0])
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"^{name}: "):
        draw(tmp_path)


def test_an_animation_without_results_is_one_line(tmp_path):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    done = warm.python(ROOT / "docs/animations/draw.py", tmp_path / "out", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("draw.py: ") and "there is no such file" in done.stderr


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_curve_without_steps_is_named(tmp_path, part, kept):
    make_run(tmp_path, [0.0], [0.0])
    path = tmp_path / f"metrics/curves/{part}.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:kept]))
    with pytest.raises(DataError, match=f"^metrics/curves/{part}.csv of workspace: holds no steps; "):
        draw(tmp_path)


def test_answers_of_another_run_are_refused(tmp_path):
    make_run(tmp_path, [0.0, 1.0], [0.0, 1.0])
    lines = (tmp_path / "metrics/scores.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "metrics/scores.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match=r"metrics/scores\.csv.*records"):
        draw(tmp_path)
    assert not (tmp_path / "metrics/report").exists()


def test_each_of_several_judges_has_its_scores_and_its_verdict(without_figures, tmp_path):
    found = make_run(tmp_path, [10.0] * 8, [60.0] * 8, judges=("llama", "reference"))
    llama, reference = found.judges
    (gain,) = llama.differences
    llama = replace(llama, identity=OLLAMA, differences=(replace(gain, p_value=0.5),))
    write_json(tmp_path / EVALUATE, dump(replace(found, judges=(llama, reference))))
    draw(tmp_path)
    page = Page((tmp_path / "metrics/report/index.html").read_text(encoding="utf-8"))
    assert "llama. Exploratory: SFT model and base model are not distinguishable" in page.text
    assert "reference. SFT model is better than base model" in page.text
    assert "llama: judged by llama3:8b through ollama" in page.text
    first = page.text.index("SFT model is better")  # by the main judge
    assert first < page.text.index("Scores on the held-out")


def test_a_run_without_a_report_on_the_data_says_so(page):
    assert "metrics/data.json is missing" in page.text
    assert "One judge only" in page.text


def test_a_long_list_without_scores_is_cut_and_the_rest_counted(without_figures, tmp_path):
    page = page_of(tmp_path, [1.0] * 150, [None] * 150)
    assert "50 more are in data/judgements.json." in page.text
    assert page.source.count("<td>no number</td>") == 100
