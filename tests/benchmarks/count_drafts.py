"""Counts the tokens that a step for one client gives, by the drafts of the pipeline's answers; needs no model.

python tests/benchmarks/count_drafts.py data/responses.json [--spare 3]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench_serve import tokenizer_of

from instruct.core.errors import CheckpointError, DataError, InstructError
from instruct.core.records import Response, read_responses
from instruct.core.terminal import print_error
from instruct.generation.drafts import Lookup
from instruct.generation.engine import DRAFTED
from instruct.text.encoding import encode_prompt
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import Tokenizer

ALPACA = TEMPLATES["alpaca"]
CHECKPOINT = Path("models/sft/best")


def main() -> None:
    """One line: the answers, their tokens after the first, and the steps that these take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--spare", type=int, default=DRAFTED - 1, help="rows of a step that check a draft")
    options = parser.parse_args()
    answers = read_responses(options.answers)
    if not answers:
        raise DataError(f"{options.answers}: holds no answers; run `dvc repro generate`")
    for name in ("config.json", "tokenizer.json"):
        if not (CHECKPOINT / name).is_file():
            raise CheckpointError(f"{CHECKPOINT / name}: there is no such file; run `dvc repro train` or `dvc pull`")
    tokenizer = tokenizer_of(CHECKPOINT)
    counts = [count(own_part(one, tokenizer), answer_of(one, tokenizer), options.spare) for one in answers]
    tokens, steps = (sum(column) for column in zip(*counts, strict=True))
    print(f"{len(answers)} answers: {tokens} tokens in {steps} steps, {tokens / steps:.2f} a step")


def own_part(one: Response, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a prompt after what all prompts begin with."""
    prefix = encode_prompt(tokenizer, ALPACA.prefix_pieces)
    return encode_prompt(tokenizer, ALPACA.prompt(one.turns, one.system))[len(prefix) :]


def answer_of(one: Response, tokenizer: Tokenizer) -> list[int]:
    """The tokens of an answer and of its end."""
    return [*tokenizer.encode(one.response), tokenizer.eos_id]


def count(own: Sequence[int], answer: Sequence[int], spare: int) -> tuple[int, int]:
    """The tokens of an answer after the first, which comes with the prompt, and the steps that give them."""
    lookup, done, steps = Lookup(), 1, 0
    while done < len(answer):
        lookup.read([*own, *answer[:done]])
        right = 0
        for drafted, token in zip(lookup.draft(spare), answer[done:], strict=False):
            if drafted != token:
                break
            right += 1
        done, steps = min(done + right + 1, len(answer)), steps + 1
    return len(answer) - 1, steps


if __name__ == "__main__":
    try:
        main()
    except InstructError as error:
        print_error(f"count_drafts.py: {error}")
        sys.exit(1)
