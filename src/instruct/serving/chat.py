"""`instruct chat`: questions and answers in a terminal or through a pipe."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from instruct.core.errors import InstructError, ParamsError
from instruct.core.files import write_text
from instruct.serving.keyboard import ctrl_c_stops
from instruct.serving.messages import Said, knows_turns
from instruct.serving.policy import Policy
from instruct.serving.talking import Manner, Talker

log = logging.getLogger(__name__)

HELP = """/system NAME   ask base, sft or dpo
/set NAME VALUE  max_tokens, temperature or seed
/again           answer the last question again, with the next seed
/new             start a new conversation
/save FILE       write the conversation as JSON
/quit            end
Ctrl-C stops an answer; what failed, was stopped or blocked does not become part of the conversation."""


@dataclass(kw_only=True)
class Chat:
    """A conversation; `open_named` loads a system by its name. Ctrl-C stops an answer if the questions are `typed`."""

    talker: Talker
    manner: Manner
    open_named: Callable[[str], Talker]
    policy: Policy | None = None
    typed: bool = False
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
                    yield from self._answer(line, self.said, self.manner)
            except InstructError as error:
                yield f"{error}\n"

    def _answer(self, question: str, before: Sequence[Said], manner: Manner) -> Iterator[str]:
        """Answer after what was said `before`; nothing changes unless the answer is whole."""
        asked, answer = Said(role="user", content=question), ""
        known = before if knows_turns(self.talker.system.template) else []
        with ctrl_c_stops() if self.typed else nullcontext(bool) as stopped:
            try:
                for piece in self.talker.say([*known, asked], manner, policy=self.policy):
                    if stopped():
                        raise InstructError("stopped; this answer is not kept")
                    answer += piece
                    yield piece
                if self.talker.blocked:
                    raise InstructError(f"{self.talker.cut}; this answer is not kept")
            except InstructError:
                yield "\n" if answer or stopped() else ""
                raise
        self.said = [*before, asked, Said(role="assistant", content=answer)]
        self.manner = manner
        yield "\n"
        if self.talker.cut:
            log.warning(self.talker.cut)

    def _command(self, name: str = "", rest: str = "") -> Iterator[str]:
        match name:
            case "system":
                self.talker = self.open_named(rest)
                yield f"{self.talker.system.name} answers\n"
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
        *before, question, _ = self.said
        yield from self._answer(question.content, before, replace(self.manner, seed=self.manner.seed + 1))

    def _save(self, file: str) -> str:
        if not file or "\0" in file:
            raise ParamsError("/save needs the name of a file")
        messages = [asdict(one) for one in self.said]
        record = {"messages": messages, "settings": asdict(self.manner), "system": self.talker.system.name}
        write_text(Path(os.path.expanduser(file)), json.dumps(record, ensure_ascii=False, indent=2) + "\n")
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
