"""docs/ builds to a site without a warning, and its links lead somewhere on a forge too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
PROSE = {page: re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S) for page in PAGES}


def anchors_of(page):
    """The anchors that GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    plain = [re.sub(r"\[(.+?)\]\(.+?\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_tracked_file_and_a_heading(page):
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for link in re.findall(r"\]\(([^)\s]+)\)", PROSE[page]):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        name = target.relative_to(ROOT).as_posix()
        assert name in tracked or any(one.startswith(f"{name}/") for one in tracked), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_index_links_every_page_once():
    linked = re.findall(r"\]\(([\w/-]+\.md)\)", PROSE[ROOT / "docs/index.md"])
    assert sorted(linked) == [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.name != "index.md"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_for_nothing_from_the_network(tmp_path):
    pytest.importorskip("furo", reason="furo is not installed: make docs brings it")
    options = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet", "-d", str(tmp_path / "trees")]
    command = [sys.executable, "-m", "sphinx", *options, "-b", "html", "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", page.read_text("utf-8"))
        assert fetched == [], page
