"""Takes a picture of a page for the README: python tests/screenshot.py PAGE PICTURE."""

import sys
from io import BytesIO
from pathlib import Path

from browser import Browser, find_chromium
from PIL import Image

WIDTH, HEIGHT = 1200, 1120


def main(page: Path, picture: Path) -> None:
    """Load the page in a real browser and keep its upper part, in few colours so that the file stays small."""
    program = find_chromium()
    if not program:
        sys.exit("there is no Chromium here: apt-get install chromium, or name one by INSTRUCT_CHROMIUM")
    browser = Browser(program)
    browser.open(page, width=WIDTH, height=HEIGHT)
    shot = Image.open(BytesIO(browser.screenshot()))
    errors = browser.errors
    browser.close()
    if errors:
        sys.exit(f"{page}: {errors[0]}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    shot.convert("RGB").quantize(128).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
