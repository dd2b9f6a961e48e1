"""Sphinx builds the Markdown of this folder into an offline site: `make docs` writes build/docs/index.html.

The pages are plain Markdown that any forge renders. What Sphinx needs beyond that is added here while it reads them.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

FOLDER = Path(__file__).parent
project = "Instruct"
author = "the contributors of Instruct"
project_copyright = author
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "Instruct"
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 4  # the anchors that forges make
nitpicky = True


def setup(app: Sphinx) -> None:
    """Change pages as Sphinx reads them."""
    app.connect("source-read", complete)


def complete(_: Sphinx, name: str, source: list[str]) -> None:
    """Offer files outside docs/ for download, and put the links of index.md into the sidebar."""
    page = FOLDER / f"{name}.md"
    text = re.sub(r"\]\((\.\.?/[^)#\s]+)(#[^)\s]*)?\)", lambda link: outside(page, link), source[0])
    source[0] = text + (sidebar(text) if name == "index" else "")


def outside(page: Path, link: re.Match[str]) -> str:
    """The link as it is if it leads to a page, and MyST's `path:` link if its file is outside docs/."""
    target = (page.parent / link[1]).resolve()
    return link[0] if target.is_relative_to(FOLDER) else f"](path:{link[1]})"


def sidebar(text: str) -> str:
    """A hidden table of contents for each section of index.md, in the order of its links."""
    parts = []
    for title, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        pages = re.findall(r"\]\(([\w/-]+)\.md\)", section)
        parts.append("\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", *pages, "```", ""]))
    return "".join(parts)
