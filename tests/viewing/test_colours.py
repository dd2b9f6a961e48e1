"""The colours of lines: told apart by everyone, on light and on dark paper."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from instruct import report, viewing

PAPER = {"light": "#ffffff", "dark": "#16181c"}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Machado, Oliveira & Fernandes (2009), severity 1, of linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def colours(scheme):
    light, dark = re.findall(r":root \{ (--c0: [^}]*)\}", (Path(report.__file__).parent / "style.css").read_text())
    return re.findall(r"--c\d: (#[0-9a-f]{6})", light if scheme == "light" else dark)


def linear(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(colour, vision):
    """CIE L*a*b* of a colour as it is seen."""
    ratio = XYZ @ np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", PAPER)
def test_no_two_lines_look_alike_and_neighbours_differ_clearly(scheme, vision):
    seen = [lab(colour, vision) for colour in colours(scheme)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 14  # 2.3 is just noticeable
    assert min(np.linalg.norm(a - b) for a, b in zip(seen, [*seen[1:], seen[0]], strict=True)) > 23


def test_the_chart_uses_as_many_colours_as_there_are():
    script = (Path(viewing.__file__).parent / "curves.js").read_text()
    assert int(re.search(r"COLOURS = (\d+)", script)[1]) == len(colours("light")) == len(colours("dark"))


@pytest.mark.parametrize("scheme", PAPER)
def test_lines_stand_out_from_the_paper(scheme):
    luminances = [float(XYZ[1] @ linear(colour)) for colour in (PAPER[scheme], *colours(scheme))]
    for one in luminances[1:]:
        low, high = sorted((one, luminances[0]))
        assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11
