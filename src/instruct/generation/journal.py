"""What is answered already, line by line, so that a killed run goes on from there and ends with the same file.

That is exact because an answer depends on its own prompt only.
"""

import json
from dataclasses import asdict
from pathlib import Path

from instruct.fingerprint import Fingerprint
from instruct.generation.decode import Answer


class Journal:
    """A file beside the output; a first line with the fingerprint of the run, then one line an answer."""

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self.path, self._fingerprint = path, fingerprint
        self.refusal = ""

    def read(self) -> dict[str, Answer]:
        """The answers of an unfinished run with the same fingerprint; a line that was cut off does not count."""
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
            different = self._fingerprint.differences(json.loads(lines[0])["fingerprint"])
        except (FileNotFoundError, IndexError):
            return {}
        except (ValueError, KeyError, TypeError):
            self.refusal = f"{self.path} is damaged; answering from the beginning"
            return {}
        if different:
            self.refusal = (
                f"{self.path} is of another run ({', '.join(different)} differ); answering from the beginning"
            )
            return {}
        answers = (json.loads(line) for line in lines[1:])
        return {entry["id"]: Answer(**entry["answer"]) for entry in answers}

    def begin(self, answers: dict[str, Answer]) -> None:
        """Write the file anew with what is known."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        first = json.dumps({"fingerprint": self._fingerprint.parts}) + "\n"
        self.path.write_text(first + "".join(map(_line, answers, answers.values())), encoding="utf-8")

    def add(self, id_: str, answer: Answer) -> None:
        """Note one more answer."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(id_, answer))

    def forget(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def _line(id_: str, answer: Answer) -> str:
    return json.dumps({"id": id_, "answer": asdict(answer)}) + "\n"
