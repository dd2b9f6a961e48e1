"""Draws the animations of docs/ from the committed run: python docs/animations/draw.py [FOLDER].

It needs what `dvc repro` or `dvc pull` leaves in data/, and writes sft-flow.svg and evaluation-loop.svg beside itself
or into FOLDER. No stage reads it and no user runs it, so it lives beside its pictures.
"""

import sys
from pathlib import Path

import evaluation_loop
import sft_flow

from instruct.core.errors import InstructError
from instruct.core.files import write_text
from instruct.core.terminal import print_error

DRAWINGS = {"sft-flow.svg": sft_flow.draw, "evaluation-loop.svg": evaluation_loop.draw}


def main(folder: Path) -> None:
    """Write each drawing and say how large it is."""
    for name, draw in DRAWINGS.items():
        path = folder / name
        write_text(path, draw(Path.cwd()))
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
    except InstructError as error:
        print_error(f"draw.py: {error}")
        sys.exit(1)
