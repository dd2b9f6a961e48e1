"""`instruct chat`: questions and answers in a terminal or through a pipe."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from instruct.core.errors import InstructError, ParamsError
from instruct.core.files import write_text
from instruct.serving.messages import Said, knows_turns
from instruct.serving.policy import Policy
from instruct.serving.systems import System
from instruct.serving.talking import Manner, say

HELP = """/system NAME   ask base, sft or dpo
/set NAME VALUE  max_tokens, temperature or seed
/again           answer the last question again, with the next seed
/new             start a new conversation
/save FILE       write the conversation as JSON
/quit            end"""


@dataclass(kw_only=True)
class Chat:
    """A conversation; `open_named` loads a system by its name."""

    system: System
    manner: Manner
    open_named: Callable[[str], System]
    policy: Policy | None = None
    said: list[Said] = field(default_factory=list)

    def run(self, lines: Iterable[str]) -> Iterator[str]:
        """Pieces of text to print for each input line; an error is printed and the conversation goes on."""
        for line in lines:
            line = line.strip()
            if line == "/quit":
                return
            try:
                if line.startswith("/"):
                    yield from self._command(*line[1:].split(maxsplit=1))
                elif line:
                    yield from self._answer(line)
            except InstructError as error:
                yield f"{error}\n"

    def _answer(self, question: str) -> Iterator[str]:
        asked = Said(role="user", content=question)
        before = self.said if knows_turns(self.system.template) else []
        answer = ""
        for piece in say(self.system, [*before, asked], self.manner, policy=self.policy):
            answer += piece
            yield piece
        self.said += [asked, Said(role="assistant", content=answer)]
        yield "\n"

    def _command(self, name: str = "", rest: str = "") -> Iterator[str]:
        match name:
            case "system":
                self.system = self.open_named(rest)
                yield f"{self.system.name} answers\n"
            case "set":
                self.manner = changed(self.manner, rest)
                yield " ".join(f"{key}={value}" for key, value in asdict(self.manner).items()) + "\n"
            case "again":
                yield from self._again()
            case "new":
                self.said = []
            case "save":
                yield self._save(rest)
            case "help":
                yield HELP + "\n"
            case _:
                raise ParamsError(f"there is no command /{name}; /help lists them")

    def _again(self) -> Iterator[str]:
        if not self.said:
            raise ParamsError("there is no question to answer again; ask one first")
        question = self.said[-2].content
        self.said = self.said[:-2]
        self.manner = replace(self.manner, seed=self.manner.seed + 1)
        yield from self._answer(question)

    def _save(self, file: str) -> str:
        if not file:
            raise ParamsError("/save needs the name of a file")
        messages = [asdict(one) for one in self.said]
        record = {"messages": messages, "settings": asdict(self.manner), "system": self.system.name}
        write_text(Path(file), json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        return f"{file}: {len(messages)} messages\n"


def changed(manner: Manner, words: str) -> Manner:
    """The manner with one setting changed to `NAME VALUE`; raises ParamsError if unknown or out of range."""
    name, _, value = words.partition(" ")
    limits = {"max_tokens": (int, 1, 1 << 20), "temperature": (float, 0, 10), "seed": (int, 0, 1 << 62)}
    if name not in limits:
        raise ParamsError(f"/set needs one of {', '.join(limits)} and a value")
    kind, least, most = limits[name]
    try:
        number = kind(value)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise ParamsError(f"{name} must be a number from {least} to {most}, is {value[:40]!r}")
    return replace(manner, **{name: number})


def lines_from_keyboard(ask: Callable[[str], str]) -> Iterator[str]:
    """The lines that a person types, until end of input."""
    while True:
        try:
            yield ask("> ")
        except EOFError:
            return
