"""Append-only journal of feedback: one JSON line per comparison, synced before acknowledgement.

``journal.jsonl``  A header, then one record per line: ``{"checksum":"...","record":{...}}``. Each
                   checksum also covers the previous one, so that a changed, moved or deleted line
                   is detected.
``writer.lock``    Held by the single process that may write.

An incomplete last line was never acknowledged and is truncated on start. Any other line that does
not match its checksum is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ...cache.lock import FileLock
from ...common.errors import UserError
from ...common.files import commit_file

JOURNAL, LOCK, FORMAT = "journal.jsonl", "writer.lock", 1
FRONT, MIDDLE, END = b'{"checksum":"', b'","record":', b"}\n"
CHECKSUM_DIGITS = 16  # xxh3, 64 bits in hexadecimal
Record = dict[str, Any]


class JournalError(UserError):
    """The journal cannot be read or written; the message names the file and the remedy."""


class JournalLine(NamedTuple):
    """A record, its byte range ``[start, end)`` in the file, and its checksum."""

    record: Record
    start: int
    end: int
    checksum: str


def make_line(record: Record, previous: str) -> tuple[bytes, str]:
    """Serialize a record; return the line and its checksum, chained to ``previous``."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    checksum = _checksum(previous, body)
    return FRONT + checksum.encode() + MIDDLE + body + END, checksum


def parse_line(line: bytes, previous: str) -> tuple[Record, str] | None:
    """Parse a line including its line feed; None if it is malformed or fails its checksum."""
    head = len(FRONT) + CHECKSUM_DIGITS
    checksum, body = line[len(FRONT) : head], line[head + len(MIDDLE) : -len(END)]
    # Checked byte by byte before parsing: JSON alone would accept other spellings of a record.
    rebuilt = FRONT + checksum + MIDDLE + body + END
    if rebuilt != line or checksum != _checksum(previous, body).encode():
        return None
    return json.loads(body), checksum.decode()


def read_lines(path: Path, start: int = 0, previous: str = "") -> Iterator[JournalLine]:
    """Read the complete lines from byte ``start`` on; an incomplete last line is left out.

    ``previous`` is the checksum of the line that ends at ``start``. Raises ``JournalError`` for a
    complete line that does not match its checksum.
    """
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            parsed = parse_line(line, previous)
            if parsed is None:
                raise JournalError(
                    f"{path}: the line at byte {start} does not fit its checksum; somebody changed "
                    "it, or the disk did: restore the file from a copy, or cut it off there and "
                    "lose what comes after"
                )
            record, previous = parsed
            yield JournalLine(record, start, start + len(line), previous)
            start += len(line)


class Journal:
    """The journal of one set of heads, opened by its only writer. Not thread-safe, but see
    ``records``."""

    def __init__(self, directory: Path, header: Record) -> None:
        """Open the journal in ``directory``, creating it if there is none.

        ``header`` identifies the heads whose margins are stored. Raises ``JournalError`` if the
        file has a different header or another process holds the lock.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = directory / JOURNAL
        self._header = {"format": FORMAT} | header
        self._lock = FileLock(directory / LOCK)
        try:
            if not self._lock.acquire():
                raise JournalError(
                    f"{directory}: another process takes feedback here; stop it, or choose another "
                    "serve.online.dir"
                )
            if not self.path.exists():
                self._replace([])
            self.header_line = self._check_header()
            self._file = os.open(self.path, os.O_RDWR)
        except BaseException:
            self._lock.close()
            raise
        self.end, self.checksum = self.header_line.end, self.header_line.checksum
        self.broken = ""

    def replay(self) -> Iterator[JournalLine]:
        """Yield every record in order, then truncate an incomplete last line.

        The journal may be appended to only after the iterator is exhausted.
        """
        self.end, self.checksum = self.header_line.end, self.header_line.checksum
        for line in read_lines(self.path, self.end, self.checksum):
            self.end, self.checksum = line.end, line.checksum
            yield line
        if os.fstat(self._file).st_size > self.end:
            os.ftruncate(self._file, self.end)
            os.fsync(self._file)

    def records(self) -> Iterator[Record]:
        """Yield every acknowledged record; safe while another thread appends."""
        end = self.end  # lines past this point may not be synced yet
        for line in read_lines(self.path, self.header_line.end, self.header_line.checksum):
            if line.end > end:
                return
            yield line.record

    def append(self, records: list[Record]) -> None:
        """Append records with a single sync.

        Raises ``JournalError`` if writing fails; the journal then refuses every later append,
        because the state of the file is unknown until the next start.
        """
        if self.broken:
            raise JournalError(self.broken)
        lines, checksum = [], self.checksum
        for record in records:
            line, checksum = make_line(record, checksum)
            lines.append(line)
        data = b"".join(lines)
        try:
            _write_all(self._file, data, self.end)
            os.fsync(self._file)
        except OSError as error:
            # Best effort: records that were not acknowledged should not reappear after a restart.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.end)
            self.broken = (
                f"{self.path}: feedback cannot be written ({error}); make room and start the "
                "service again"
            )
            raise JournalError(self.broken) from error
        self.end += len(data)
        self.checksum = checksum

    def rewrite(self, keep: Callable[[Record], bool]) -> int:
        """Atomically remove the records for which ``keep`` is false; return their number."""
        records = list(self.records())
        kept = [record for record in records if keep(record)]
        if len(kept) < len(records):
            end, checksum = self._replace(kept)
            # The descriptor still refers to the file that was replaced.
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR)
            self.end, self.checksum = end, checksum
        return len(records) - len(kept)

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)
        self._lock.close()

    def _replace(self, records: list[Record]) -> tuple[int, str]:
        """Atomically replace the journal; return its length in bytes and its last checksum."""
        temporary, checksum, end = self.path.with_suffix(".tmp"), "", 0
        temporary.unlink(missing_ok=True)
        # Personal data: readable by the owner only.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for record in (self._header, *records):
                line, checksum = make_line(record, checksum)
                end += file.write(line)
        commit_file(temporary, self.path)
        return end, checksum

    def _check_header(self) -> JournalLine:
        first = next(read_lines(self.path), None)
        if first is None or first.record != self._header:
            found = "nothing" if first is None else json.dumps(first.record)
            raise JournalError(
                f"{self.path}: expected the journal of these heads {json.dumps(self._header)}, "
                f"found {found}; margins of other heads say nothing about these: choose another "
                "serve.online.dir"
            )
        return first


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all bytes at ``offset``; a failure may leave a tail, which the next start truncates."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _checksum(previous: str, body: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(previous.encode() + body)
