"""Rephrases instructions by rule: needs no server, and the answer stays right because the question is the same."""

import re
from hashlib import sha256

from instruct.augmentation.draft import Draft, Outcome, Skipped
from instruct.core.records import Example

# Verbs that start a command; after "Please" or "Could you" it remains the same command.
_VERB = re.compile(
    r"(?i:add|answer|arrange|ask|assign|build|calculate|change|choose|classify|combine|compare|complete|compute"
    r"|convert|correct|count|decide|define|describe|determine|explain|express|fill|find|finish|fix|form"
    r"|give|identify|insert|label|list|make|match|move|multiply|name|order|pick|provide|put|reduce|rephrase"
    r"|replace|rewrite|round|select|shorten|sort|spell|state|subtract|suggest|summarize|supply|tell"
    r"|translate|turn|use|write)"
)
_MORE_THAN_ONE_SENTENCE = re.compile(r"[.?!:;]\s|\n")


def reword(example: Example, seed: int) -> Outcome:
    """One suitable rephrasing of the example, chosen by a hash of its id; Skipped if there is none."""
    if not (order := _order(example.instruction)):
        return Skipped(reason="unsuitable")
    wordings = [(f"Please {order}.", example.input), (f"Could you {order}?", example.input)]
    given = example.input.strip()
    if given and "\n" not in given:  # the input after the command on one line, as people type it
        wordings.append((f"{order[0].upper()}{order[1:]}: {given}", ""))
    digest = sha256(f"{seed}\x1f{example.id}".encode()).digest()
    instruction, input_ = wordings[int.from_bytes(digest[:8]) % len(wordings)]
    return Draft(method="rules", parent=example, instruction=instruction, input=input_, output=example.output)


def _order(text: str) -> str:
    """A single command without its capital and its full stop, or "" for any other text."""
    text = text.strip()
    if not _VERB.fullmatch(text.partition(" ")[0]) or _MORE_THAN_ONE_SENTENCE.search(text) or text[-1] in "?!:":
        return ""
    return text[0].lower() + text[1:].removesuffix(".")
