"""Find worn phrases in the project's prose, and measure how readable a page is.

    python tests/prose.py                      # what `make lint` runs: phrases with file and line
    python tests/prose.py --measure README.md  # words, sentences, share of sentences over 30 words

A general prose linter does not fit: proselint 0.16 reads Markdown tables and code as text, and 18 of 20 findings on
this project's pages were quotes in code. The list below has what `words.md`, the project's guide, rules out.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Paths whose prose is checked; patterns are relative to the root. Add a folder here once it has been swept.
PAGES = ["*.md", "data/*.md", "docs/**/*.md", ".github/**/*.md"]
CODE = ["docs/**/*.py", "src/**/*.py"]
SETTINGS = [".github/**/*.yml", ".github/**/*.yaml", "CITATION.cff"]

# What not to write: what to write in its place.
PHRASES = {
    r"stands? (?:in|at|there|on)\b": "is in, appears",
    r"stood (?:in|at|there|on)\b": "was in, appeared",
    r"(?<!there )\bis no\b(?! (?:longer|more|less)\b)": "is not a, lacks",
    r"(?<!there )\b(?-i:is none)\b": "does not exist",
    r"\banew\b": "again",
    r"\bwhoever\b": "anyone who",
    r"\bbefall\w*": "happen",
    r"\bbe (?:they|it)\b": "whether",
    r"\ball is well\b": "no problems found",
    r"\bwent through\b": "finished",
    r"\bto rounding\b": "within rounding error",
    r"\ba(?:n)? \w+ of its own\b": "its own",
    r"\bof its own use\b": "(leave out)",
    r"\bof before\b": "old, earlier",
    r"\bhas not the\b|\bhave not the\b": "lacks the",
    r"\blikeness\b": "similarity",
    r"\bnot distinguishable\b": "inconclusive (`not distinguishable` only in code marks, as a verdict that is quoted)",
    r"\bthe untuned\b|\buntuned (?:model|answers)\b": "base model",
}
VERDICT = "not distinguishable"  # what `instruct compare` prints
WORN = re.compile("|".join(f"(?:{pattern})" for pattern in PHRASES), re.IGNORECASE)


def prose_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that a person reads; code in a page and code around a comment are left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _strings_and_comments(text)
    elif path.suffix == ".md":
        yield from _markdown_lines(text)
    else:
        yield from enumerate(text.splitlines(), 1)


def _strings_and_comments(text: str) -> Iterator[tuple[int, str]]:
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and not re.match(r"r\"", token.string):  # raw strings are patterns
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def _markdown_lines(text: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`", "`code`", line)


def worn_phrases(path: Path) -> list[str]:
    """`file:line: phrase; write this instead` for each worn phrase, one that goes over two lines too."""
    found = []
    lines = list(prose_lines(path))
    text = "".join(re.sub(r"\s+", " ", line).strip() + "\n" for _, line in lines)
    for match in WORN.finditer(text.replace("\n", " ")):
        if path.suffix == ".py" and match[0] == VERDICT:
            continue
        number = lines[text.count("\n", 0, match.start())][0]
        better = next(say for pattern, say in PHRASES.items() if re.fullmatch(pattern, match[0], re.IGNORECASE))
        found.append(f'{path}:{number}: "{match[0]}"; write: {better}')
    return found


def checked_files() -> list[Path]:
    """Every file whose prose is checked, sorted."""
    return sorted({path for pattern in (*PAGES, *CODE, *SETTINGS) for path in ROOT.glob(pattern) if path.is_file()})


# Readability


def sentences_of(markdown: str) -> list[str]:
    """The sentences of a page's paragraphs and lists; tables, code, headings and pictures have none."""
    blocks: list[str] = [""]
    for _, line in _markdown_lines(markdown):
        text = line.strip()
        if not text or text.startswith(("|", "#", "!", "<", ":::")):
            blocks.append("")
        elif re.match(r"(?:[-*]|\d+\.) ", text):
            blocks.append(re.sub(r"^(?:[-*]|\d+\.) ", "", text))
        else:
            blocks[-1] += f" {text}"
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", block).replace("*", "").strip() for block in blocks]
    parts = [part for block in plain for part in re.split(r"(?<=[.!?])\s+(?=[\"'(`A-Z0-9])", block)]
    return [part for part in parts if words_in(part)]


def words_in(text: str) -> int:
    """How many words a text has: what lies between blanks and holds a letter or digit."""
    return sum(1 for word in text.split() if re.search(r"\w", word))


def measure(markdown: str, limit: int = 30) -> dict[str, float]:
    """Words of the whole page, its sentences, and the share of these (0-100) with more than `limit` words."""
    sentences = sentences_of(markdown)
    long = [one for one in sentences if words_in(one) > limit]
    return {
        "words": words_in(markdown),
        "sentences": len(sentences),
        "share_long": round(100 * len(long) / max(1, len(sentences)), 1),
        "mean_words": round(sum(map(words_in, sentences)) / max(1, len(sentences)), 1),
    }


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--measure"]:
        for path in map(Path, arguments[1:]):
            numbers = measure(path.read_text(encoding="utf-8"))
            print(path, *(f"{name}={value}" for name, value in numbers.items()))
        return 0
    found = [line.removeprefix(f"{ROOT}/") for path in checked_files() for line in worn_phrases(path)]
    print("\n".join(found), end="\n" * bool(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
