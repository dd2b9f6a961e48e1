"""Takes a picture of the page of all runs for the README: python tests/screenshot.py PAGE PICTURE."""

import json
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from browser import Browser, find_chromium
from PIL import Image

WIDTH, TALLEST = 1200, 1400
# One answer beside another in place of a page of them, and as many rows as there is room for.
SHORTEN = f"""
for (const article of all('#answers-list article').slice(1)) article.hidden = true
const bottom = () => Math.ceil(document.querySelector('main').getBoundingClientRect().bottom) + 12
for (const row of all('.runs tbody tr').reverse()) row.hidden = bottom() > {TALLEST}
const counts = [visibleRows(), all('.runs tbody tr')].map((rows) => rows.length)
document.getElementById('runs-status').textContent = `${{counts[0]}} of ${{counts[1]}} runs`
"""
STYLE = """
nav, #report, #recipes, #answers > .controls:last-child, #runs > p:last-child, #curves-help { display: none }
body { margin: .8rem auto } main > section > h2 { margin-top: 1.1rem }
#answers-list .text { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden }
"""


def main(page: Path, picture: Path) -> None:
    """Load the page in a real browser; keep the table, the chart and the first answer beside another."""
    program = find_chromium()
    if not program:
        sys.exit("there is no Chromium here: apt-get install chromium, or name one by INSTRUCT_CHROMIUM")
    browser = Browser(program)
    take_picture(browser, page, picture)
    browser.close()
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def take_picture(browser: Browser, page: Path, picture: Path) -> None:
    """The same with a browser that is there; ends the program where a script of the page made an error."""
    browser.open(page, width=WIDTH, height=TALLEST)
    browser.run(f"document.head.append(make('style', {json.dumps(STYLE)}))")
    browser.run(SHORTEN)
    browser.resize(WIDTH, browser.run("bottom()"))
    shot = Image.open(BytesIO(browser.screenshot())).convert("RGB")
    if browser.errors:
        sys.exit(f"{page}: {browser.errors[0]}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    in_palette(shot).save(picture, optimize=True)


def in_palette(image: Image.Image) -> Image.Image:
    """The picture in its 256 most frequent colours; the others, at the edges of letters, take the nearest of these."""
    pixels = np.asarray(image).reshape(-1, 3).astype(int)
    codes, place, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    kept = colours[np.argsort(-counts)[:256]]
    nearest = np.array([np.square(kept - colour).sum(axis=1).argmin() for colour in colours], dtype=np.uint8)
    indexed = Image.fromarray(nearest[place].reshape(image.height, image.width), mode="P")
    indexed.putpalette(kept.astype(np.uint8).tobytes())
    return indexed


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
