"""A small SVG canvas: panels, texts and shapes that appear one after another, in light and dark."""

from dataclasses import dataclass, field
from html import escape

MONO = 0.61  # width of a monospaced letter, in font sizes: a little above that of the usual fonts
SECONDS = 24  # one round
COLOURS = {
    "paper": ("#ffffff", "#0d1117"),
    "panel": ("#f4f6f9", "#161b22"),
    "edge": ("#c8d1dc", "#3d4653"),
    "ink": ("#1f2733", "#e6edf3"),
    "quiet": ("#5b6776", "#9aa7b5"),
    "learnt": ("#0b62a8", "#6cb6ff"),
    "good": ("#1a7f37", "#4ac26b"),
    "bad": ("#b3261e", "#ff8a80"),
}


@dataclass
class Canvas:
    """Elements of one drawing. `at` is the second in which an element appears, and `until` that in which it goes."""

    width: int
    height: int
    title: str
    about: str
    parts: list[str] = field(default_factory=list)
    moments: set[tuple[str, float]] = field(default_factory=set)

    def add(self, element: str, at: float = 0.0, until: float = 0.0) -> None:
        """Put an element there; without times it is there from the beginning to the end."""
        for kind, moment in (("gone", until), ("come", at)):
            if moment:
                self.moments.add((kind, moment))
                element = f'<g class="{kind} {name_of(kind, moment)}">{element}</g>'
        self.parts.append(element)

    def panel(self, box: tuple[float, float, float, float], title: str, at: float) -> None:
        """A box with its title."""
        x, y, width, height = box
        frame = f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
        self.add(frame + text(x + 14, y + 24, title, "head"), at)

    def render(self) -> str:
        """The whole file; the same elements give the same bytes."""
        style = "".join([*colour_rules(), STYLE, *map(keyframes, sorted(self.moments))])
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title about">'
        words = f'<title id="title">{escape(self.title)}</title><desc id="about">{escape(self.about)}</desc>'
        paper = f'<rect class="paper" width="{self.width}" height="{self.height}"/>'
        return "\n".join([head, words, f"<style>{style}</style>", paper, *self.parts, "</svg>", ""])


STYLE = """
text{font:13px system-ui,sans-serif;fill:var(--ink);white-space:pre}
.head{font-weight:600;font-size:14px}
.mono{font-family:ui-monospace,monospace;font-size:12px}
.small{font-family:ui-monospace,monospace;font-size:11px}
.big{font-size:17px;font-weight:600}
.mid{text-anchor:middle}.end{text-anchor:end}
text.quiet{fill:var(--quiet)}text.learnt{fill:var(--learnt)}text.good{fill:var(--good)}text.bad{fill:var(--bad)}
.paper{fill:var(--paper)}.box{fill:var(--panel);stroke:var(--edge)}
rect.quiet{fill:var(--edge)}rect.ink{fill:var(--quiet)}
rect.learnt{fill:var(--learnt)}rect.good{fill:var(--good)}rect.bad{fill:var(--bad)}
.chip{fill:none;stroke:var(--edge)}.chip.learnt{fill:none;stroke:var(--learnt)}
.line{fill:none;stroke:var(--quiet);stroke-width:1.5}.line.learnt{stroke:var(--learnt)}.thick{stroke-width:5}
circle.learnt{fill:var(--learnt)}
.gone{opacity:0}
"""


def colour_rules() -> list[str]:
    """The colours of both schemes; without a preference they are light."""
    light, dark = ("".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items()) for place in (0, 1))
    return [f":root{{{light}}}", f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"]


def name_of(kind: str, moment: float) -> str:
    """The class of what comes or goes in a moment."""
    return f"{kind}{round(moment * 10)}"


def keyframes(one: tuple[str, float]) -> str:
    """The rules of a moment. They hold only for readers who accept motion: all others see the last frame."""
    kind, moment = one
    name, (before, after) = name_of(*one), ((0, 1) if kind == "come" else (1, 0))
    begin, end = (f"{100 * second / SECONDS:.2f}%" for second in (moment, moment + 0.5))
    frames = f"@keyframes {name}{{0%,{begin}{{opacity:{before}}}{end},100%{{opacity:{after}}}}}"
    rule = f".{name}{{animation:{name} {SECONDS}s infinite}}"
    return f"{frames}@media (prefers-reduced-motion:no-preference){{{rule}}}\n"


def text(x: float, y: float, words: str, style: str = "") -> str:
    """A line of text, its base line at y."""
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, style: str) -> str:
    """A rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{style}"/>'


def line(points: list[tuple[float, float]], style: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" class="line {style}"/>'


def wrap(words: str, letters: int) -> list[str]:
    """The text in lines of at most so many letters, broken at blanks and at its own line ends."""
    lines = []
    for paragraph in words.split("\n"):
        current = ""
        for word in paragraph.split(" "):
            longer = f"{current} {word}" if current else word
            if len(longer) > letters and current:
                lines.append(current)
                longer = word
            current = longer
        lines.append(current)
    return lines
