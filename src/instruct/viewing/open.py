"""Opens a page in the user's browser, where there is one to open."""

import os
import sys
import webbrowser
from pathlib import Path


def open_page(path: Path) -> bool:
    """Whether a browser took the page; on Linux none is tried without a display, as it would run in the terminal."""
    seen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not seen:
        return False
    return webbrowser.open(path.resolve().as_uri())
