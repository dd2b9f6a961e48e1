"""The finished answers, line by line, so that a killed run resumes and ends with the same file.

This is exact because an answer depends only on its own prompt.
"""

import json
from dataclasses import asdict
from pathlib import Path

from instruct.core.errors import InstructError
from instruct.core.files import write_text
from instruct.core.fingerprint import Fingerprint
from instruct.generation.rows import Answer


class Journal:
    """A file beside the output: a line with the fingerprint of the run, then one line per answer."""

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path, self._fingerprint = path, fingerprint
        self.refusal = ""

    def read(self) -> dict[str, Answer]:
        """The answers of an unfinished run with the same fingerprint; ignores a line that was cut off.

        That run may have had another number of processes; its files are then beside this one.
        """
        known: dict[str, Answer] = {}
        for path in {self.path, *self._siblings()}:
            answers, refusal = self._read_file(path)
            known |= answers
            if path == self.path:
                self.refusal = refusal
        return known

    def _read_file(self, path: Path) -> tuple[dict[str, Answer], str]:
        """A file's answers up to the first damaged line, and the reason if some or all are missing."""
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            different = self._fingerprint.differences(json.loads(lines[0])["fingerprint"])
        except (FileNotFoundError, IndexError):
            return {}, ""
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}, f"{path} is damaged; answering from the beginning"
        if different:
            return {}, f"{path} is of another run ({', '.join(different)} differ); answering from the beginning"
        answers: dict[str, Answer] = {}
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = json.loads(line)
                answers[entry["id"]] = Answer(**entry["answer"])
            except (ValueError, KeyError, TypeError):
                return answers, f"{path}:{number} is damaged; answering again from this line on"
        return answers, ""

    def _siblings(self) -> list[Path]:
        """The files of the same output, for any number of processes."""
        output = self.path.name.rsplit(".", 2)[0]
        return sorted(self.path.parent.glob(f"{output}.*.partial"))

    def begin(self, answers: dict[str, Answer]) -> None:
        """Rewrite the file with the known answers."""
        first = json.dumps({"fingerprint": self._fingerprint.parts}) + "\n"
        write_text(self.path, first + "".join(map(_line, answers, answers.values())))

    def add(self, id_: str, answer: Answer) -> None:
        """Add one answer."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(id_, answer))
        except OSError as error:
            remedy = "free some space and run the stage again, it goes on from the answers in this file"
            raise InstructError(f"{self.path}: cannot be written ({error.strerror}); {remedy}") from None

    def forget(self) -> None:
        """Remove the file, and those of other numbers of processes."""
        for path in {self.path, *self._siblings()}:
            path.unlink(missing_ok=True)


def _line(id_: str, answer: Answer) -> str:
    return json.dumps({"id": id_, "answer": asdict(answer)}) + "\n"
