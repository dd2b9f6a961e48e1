"""Every console block of README.md and docs/ is run, in its page's order, and prints what the page shows."""

from pathlib import Path

import pytest
from console_blocks import blocks_of, matches

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
PAGES = {path.relative_to(ROOT).as_posix(): blocks_of(path.read_text("utf-8")) for path in FILES}
RUN = {page: [block for block in blocks if not block.not_run] for page, blocks in sorted(PAGES.items())}
QUICK = {page: quick for page, blocks in RUN.items() if (quick := [block for block in blocks if not block.slow])}
SLOW = {page: blocks for page, blocks in RUN.items() if any(block.slow for block in blocks)}


@pytest.mark.parametrize("page", QUICK)
def test_quick_blocks_print_what_the_page_shows(page, places):
    run_all(QUICK[page], places)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_print_what_the_page_shows(page, places):
    run_all(SLOW[page], places)


def run_all(blocks, places):
    """Run what can be run here; the test counts as skipped if a place is missing."""
    missing = ""
    for block in blocks:
        try:
            session = places(block.place)
        except pytest.skip.Exception as reason:
            missing = str(reason)
            continue
        session.follow(block)
    if missing:
        pytest.skip(f"all other blocks ran; {missing}")


@pytest.mark.parametrize("page", PAGES)
def test_no_block_hides_from_the_tests_by_its_indentation(page):
    """Its comments say where and when it runs; the README's blocks all run."""
    text = (ROOT / page).read_text("utf-8")
    assert page != "README.md" or PAGES[page] == RUN[page]
    assert text.count("```console") == len(PAGES[page])
    assert all(block.steps for block in PAGES[page])


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (["a", "b"], "a\nb\n", True),
        (["a", "b"], "a\nb\nc\n", False),
        (["loss 0.…"], "loss 0.25\n", True),
        (["loss 0.…"], "loss 1.25\n", False),
        (["loss 0.…"], "loss 0.25\nend\n", False),
        (["a…     | b"], "a long word | b\n", True),
        (["a…     | b"], "a long word|b\n", False),
        (["a     | b"], "a | b\n", False),
        (["a", "…", "z"], "a\nb\nc\nz\n", True),
        (["a", "…", "z"], "a\nz\n", True),
        (["a", "…", "z"], "a\nb\n", False),
    ],
)
def test_an_ellipsis_is_any_text_of_a_line_or_any_lines(expected, printed, same):
    assert matches(expected, printed) is same


def test_comments_above_a_block_belong_to_it_alone_but_the_place_holds_on():
    text = "<!-- place: small -->\n<!-- slow -->\n```console\n$ one\n```\n"
    text += "text\n```console\n$ two <<'E'\nx\nE\nout\n```\n"
    first, second = blocks_of(text)
    assert (first.place, first.slow, second.place, second.slow) == ("small", True, "small", False)
    assert [(step.command, step.expected) for step in second.steps] == [("two <<'E'\nx\nE", ["out"])]
