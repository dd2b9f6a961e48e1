"""New records from a chat model alone, as in Magpie (arXiv 2406.08464).

Given an empty user turn, a chat model continues with text like its training data: an instruction. The same model then
answers that instruction.
"""

from instruct.augmentation.draft import Draft, Outcome, Skipped
from instruct.augmentation.settings import MagpieParams
from instruct.servers.base import Ask, Request

_LONGEST = 600  # characters of an instruction; longer ones are mostly the model talking to itself


def invent(params: MagpieParams, ask: Ask, max_tokens: int, seed: int) -> list[Outcome]:
    """One outcome per requested record, in order; each has its own seed, otherwise all would be the same."""
    system = (("system", params.system),) if params.system.strip() else ()
    openings = [
        Request(
            messages=(*system, (params.role, "")),
            max_tokens=max_tokens,
            temperature=params.temperature,
            seed=seed,
            repeat=number,
            first_line=True,
        )
        for number in range(params.records)
    ]
    outcomes: list[Outcome] = []
    instructions = []
    for reply in ask(openings):
        # The first line that is not empty, as in the book's notebook.
        instruction = next((line.strip() for line in reply.text.splitlines() if line.strip()), "")
        if reply.problem:
            outcomes.append(Skipped(reason="unanswered"))
        elif not any(character.isalpha() for character in instruction) or len(instruction) > _LONGEST:
            outcomes.append(Skipped(reason="unsuitable"))
        else:
            instructions.append(instruction)
    questions = [
        Request(messages=(("user", instruction),), max_tokens=max_tokens, seed=seed) for instruction in instructions
    ]
    for instruction, reply in zip(instructions, ask(questions), strict=True):
        answer = reply.text.strip()
        if reply.problem or not answer:
            outcomes.append(Skipped(reason="unanswered"))
        else:
            outcomes.append(Draft(method="magpie", parent=None, instruction=instruction, input="", output=answer))
    return outcomes
