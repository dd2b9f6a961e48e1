"""Records for bench_data.py, made by perturbing real ones, so that the near-duplicates among them are known."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

COPIES = (1, 1, 2, 3)  # of a record that has near-duplicates; every fourth has
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_records(real: list[dict[str, str]], count: int, seed: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Records and the number of the original that each was made from, in a random order of waves.

    An original is a real record with half of its longer words replaced, so no two are alike but by chance. Its
    copies have one to four small changes: most stay above a similarity of 90, some fall below.
    """
    rng = random.Random(seed)
    words = sorted({word for row in real for word in row["output"].split() if len(word) > 3 and word.isalpha()})
    wave: list[tuple[int, dict[str, str]]] = []
    made = original = 0
    while made < count:
        row = _renew(rng.choice(real), words, rng)
        copies = [row]
        if rng.random() < 0.25:
            copies += [_perturb(row, words, rng) for _ in range(rng.choice(COPIES))]
        wave += [(original, copy) for copy in copies[: count - made]]
        made += len(copies[: count - made])
        original += 1
        if len(wave) > 10_000 or made >= count:
            rng.shuffle(wave)
            yield from wave
            wave = []


def write_records(path: Path, real: list[dict[str, str]], count: int, seed: int) -> list[int]:
    """Write JSON Lines; returns the original of each record."""
    originals = []
    with path.open("w", encoding="utf-8") as file:
        for original, row in make_records(real, count, seed):
            originals.append(original)
            file.write(json.dumps({**row, "id": f"{len(originals)}"}, ensure_ascii=False) + "\n")
    return originals


def _renew(row: dict[str, str], words: list[str], rng: random.Random) -> dict[str, str]:
    def renewed(text: str) -> str:
        parts = text.split(" ")
        return " ".join(rng.choice(words) if len(w) > 3 and rng.random() < 0.5 else w for w in parts)

    fields = {name: renewed(row[name]) for name in ("instruction", "input", "output")}
    name = "".join(rng.choice(LETTERS) for _ in range(10))
    return {**row, **fields, "instruction": f"{fields['instruction']} ({name} {rng.choice(words)})"}


def _perturb(row: dict[str, str], words: list[str], rng: random.Random) -> dict[str, str]:
    changed = dict(row)
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        field = "input" if row["input"] and rng.random() < 0.5 else "instruction"
        changed[field] = _change(changed[field], words, rng)
    return changed


def _change(text: str, words: list[str], rng: random.Random) -> str:
    kind = rng.randrange(6)
    place = rng.randrange(max(1, len(text)))
    parts = text.split(" ")
    word = rng.randrange(len(parts))
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + rng.choice(LETTERS) + text[place:]
    if kind == 2:
        return text[:place] + rng.choice(LETTERS) + text[place + 1 :]
    if kind == 3:
        return text.upper() if rng.random() < 0.2 else f"{text} Please."
    if kind == 4:
        return " ".join([*parts[:word], rng.choice(words), *parts[word + 1 :]])
    return " ".join([*parts[:word], *parts[word + 1 :]]) or text
