"""The project's prose: no worn phrase comes back, and the README stays short."""

import re

import prose
import pytest


def test_no_page_holds_a_worn_phrase():
    assert [line for path in prose.checked_files() for line in prose.worn_phrases(path)] == []


def test_the_pages_a_visitor_sees_are_among_those_checked():
    names = {path.relative_to(prose.ROOT).as_posix() for path in prose.checked_files()}
    assert {"README.md", "RUNBOOKS.md", "SECURITY.md", "CONTRIBUTING.md", "data/README.md"} <= names


def test_the_readme_is_short_and_its_sentences_too():
    text = (prose.ROOT / "README.md").read_text(encoding="utf-8")
    numbers = prose.measure(text)
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1600
    assert numbers["share_long"] <= 5


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", "# A\n\nThe key stands in a variable.\n", 3),
        ("page.md", "```\nstands in\n```\n\nIt is none.\n", 5),
        ("page.md", "Nobody has\nseen it. All is\nwell.\n", 2),
        ("code.py", 'def f():\n    """Return it anew."""\n', 2),
        ("code.py", 'x = 1  # whoever asks\ny = "a" + str(x)\n', 1),
        ("code.py", 'print(f"{1} is no file")\n', 1),
        ("settings.yaml", "a: 1\nb: 2  # within: to rounding\n", 2),
    ],
)
def test_a_worn_phrase_is_found_with_its_line(tmp_path, name, text, line):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = prose.worn_phrases(path)
    assert [re.match(rf"{re.escape(str(path))}:(\d+): ", one)[1] for one in found] == [str(line)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "The verdict is `not distinguishable`. There is no such file, and there is none.\n"),
        ("page.md", "```console\n$ echo anew\n```\n"),
        ("code.py", 'anew = 1\npattern = r"whoever"\n'),
    ],
)
def test_code_and_plain_english_are_left_alone(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert prose.worn_phrases(path) == []


def test_sentences_are_those_of_paragraphs_and_lists():
    text = "# Title. Not one\n\nOne two.\nThree [four](five.md), six. \n\n- Seven\n- Eight `nine.` ten\n\n| a. | b. |\n"
    assert prose.sentences_of(text) == ["One two.", "Three four, six.", "Seven", "Eight `code` ten"]


def test_the_share_of_long_sentences_counts_words_over_the_limit():
    text = "One two three. " + "Word " * 31 + "\n"
    assert prose.measure(text)["share_long"] == 50
    assert prose.measure(text, limit=31)["share_long"] == 0
