"""A cache of replies in one SQLite file, for any number of processes at once.

The key of a reply is the sha256 of everything that decides it (`Server.key`), so no entry is ever out of date. Only
replies without a problem are stored, each at once and permanently, so that an interrupted run loses no reply. The
first reply to a question stays, so that asking again gives the same reply. The file is not trusted: invalid entries
are removed and asked for again.
"""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs

from instruct.core.errors import ServerError
from instruct.core.files import write_atomically
from instruct.servers.base import Reply
from instruct.servers.replies import kept_reply, writable
from instruct.servers.secret import MASK

log = logging.getLogger(__name__)

CACHE_VARIABLE = "INSTRUCT_REPLIES"
VERSION = 1
UNEDITED = 1  # PRAGMA application_id of a file without replies from before replies were kept as they came
WAIT_S = 60.0  # for other processes that are writing
AT_ONCE = 500  # keys in one query; SQLite takes at least 999
LONGEST_LINE = 1 << 25  # characters of one exported reply
FIELDS = frozenset({"key", "logprobs", "model", "prompt_tokens", "stop", "text"})

_KEY = re.compile(r"[0-9a-f]{64}")
_CREATE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, stop TEXT NOT NULL, prompt_tokens INTEGER NOT NULL,
    logprobs TEXT
) WITHOUT ROWID"""
_COLUMNS = "key, model, text, stop, prompt_tokens, logprobs"
_Row = tuple[str, str, str, str, int, str | None]


def cache_file() -> Path:
    """The file of replies: $INSTRUCT_REPLIES, or a file in the user's cache folder that all clones share."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("instruct") / "replies.sqlite"


class ReplyCache:
    """Replies by key, for use by one thread. Raises ServerError if the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._usable():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
            self._database.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> "ReplyCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def count(self) -> int:
        with self._usable():
            return int(self._database.execute("SELECT count(*) FROM replies").fetchone()[0])

    def get(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The cached replies among `keys`, by key."""
        wanted = list(keys)
        found: dict[str, Reply | None] = {}
        for start in range(0, len(wanted), AT_ONCE):
            part = wanted[start : start + AT_ONCE]
            places = ",".join("?" * len(part))
            query = f"SELECT {_COLUMNS} FROM replies WHERE key IN ({places})"
            with self._usable():
                found |= {row[0]: _reply(row) for row in self._database.execute(query, part)}
        self._remove([key for key, reply in found.items() if reply is None])
        return {key: reply for key, reply in found.items() if reply is not None}

    def put(self, key: str, reply: Reply, model: str) -> Reply:
        """Store a reply; returns the stored one, which another process may have written first."""
        assert not reply.problem, "only successes are kept"
        logprobs = json.dumps([[t.text, t.logprob, t.top] for t in reply.logprobs]) if reply.logprobs else None
        row = (key, model, reply.text, reply.stop, reply.prompt_tokens, logprobs)
        if self._insert(row):
            return reply
        if there := self.get([key]).get(key):
            return there
        self._insert(row)
        return reply

    def export(self, path: Path) -> int:
        """Write all replies as JSON lines in the order of their keys; returns how many.

        The same replies give the same bytes, so that DVC or Git can share the file. Invalid entries are left out.
        """
        count = 0

        def write(part: Path) -> None:
            nonlocal count
            with part.open("w", encoding="utf-8", newline="\n") as file:
                for row in self._rows():
                    if _reply(row) is None:
                        continue
                    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
                    values["logprobs"] = json.loads(row[5]) if row[5] else None
                    file.write(json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n")
                    count += 1

        write_atomically(path, write)
        return count

    def load(self, path: Path) -> tuple[int, int]:
        """Add the replies of an exported file; returns the number of new ones and the total.

        Existing replies stay unchanged. Raises ServerError that names a line that is not a reply; the cache is then
        unchanged.
        """
        new = total = 0
        with self._usable(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for row in _exported_rows(path):
                new += self._insert(row)
                total += 1
        return new, total

    def _prepare(self) -> None:
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise ServerError(
                f"{self.path}: is a cache of replies of another version ({version}, not {VERSION}); delete it, or set "
                f"{CACHE_VARIABLE} to another file"
            )
        # Allows readers beside a writer; a killed process loses nothing, a power cut at most the last replies.
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(_CREATE)
        self._database.execute(f"PRAGMA user_version={VERSION}")
        if self._database.execute("PRAGMA application_id").fetchone()[0] != UNEDITED:
            self._remove_edited()

    def _remove_edited(self) -> None:
        """Remove, once, replies that an earlier mask of keys may have edited, so that they are asked for again."""
        query = f"DELETE FROM replies WHERE instr(text, '{MASK}') OR instr(ifnull(logprobs, ''), '{MASK}')"
        if count := self._database.execute(query).rowcount:
            log.warning("%s: %d replies hold %s, so may be edited; they are asked for again", self.path, count, MASK)
        self._database.execute(f"PRAGMA application_id={UNEDITED}")

    def _insert(self, row: _Row) -> bool:
        query = f"INSERT INTO replies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        with self._usable():
            return self._database.execute(query, row).rowcount == 1

    def _remove(self, keys: list[str]) -> None:
        """Remove invalid entries, so that they are asked for again."""
        if not keys:
            return
        log.warning("%s: %d entries are not replies; they are removed and asked for again", self.path, len(keys))
        with self._usable():
            self._database.executemany("DELETE FROM replies WHERE key = ?", [(key,) for key in keys])

    def _rows(self) -> Iterator[_Row]:
        with self._usable():
            yield from self._database.execute(f"SELECT {_COLUMNS} FROM replies ORDER BY key")

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise ServerError(
                f"{self.path}: the cache of replies cannot be used ({error}); free the disk, delete the file, or set "
                f"{CACHE_VARIABLE} to another one"
            ) from None
        except OSError as error:
            raise ServerError(
                f"{self.path}: the cache of replies cannot be made ({error.strerror}); set {CACHE_VARIABLE} to a file "
                "that can"
            ) from None


def _reply(row: _Row) -> Reply | None:
    """The reply in a row, or None if the row is invalid."""
    if not (_is_text(row[0]) and _is_text(row[1])):
        return None
    try:
        logprobs = None if row[5] is None else json.loads(row[5])
    except (ValueError, TypeError, RecursionError):
        return None
    return kept_reply(row[2], row[3], row[4], logprobs)


def _is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can hold."""
    return isinstance(value, str) and value == writable(value)


def _exported_rows(path: Path) -> Iterator[_Row]:
    """The rows of an exported file, each checked."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), 1):
                try:
                    yield _exported_row(json.loads(line))
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise ServerError(
                        f"{path}:{number}: is not an exported reply; export again with `instruct replies --export`"
                    ) from None
    except UnicodeDecodeError:
        raise ServerError(f"{path}: is not UTF-8, so no file of exported replies") from None
    except OSError as error:
        raise ServerError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _exported_row(values: Any) -> _Row:
    if not isinstance(values, dict) or set(values) != FIELDS or not _KEY.fullmatch(values["key"]):
        raise ValueError
    key, model, text, stop, tokens, logprobs = (values[name] for name in _COLUMNS.split(", "))
    if not _is_text(model) or kept_reply(text, stop, tokens, logprobs) is None:
        raise ValueError
    return key, model, text, stop, tokens, json.dumps(logprobs) if logprobs else None
