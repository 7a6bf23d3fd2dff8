"""Feedback on disk: one JSON line per comparison, synced before it is acknowledged.

``journal.jsonl``  a header, then a record per line: ``{"checksum":"...","record":{...}}``. Every
                   checksum covers the one before it, so that no line can change, move or go.
``writer.lock``    held by the one process that may write.

A last line that is incomplete was never acknowledged and is cut off. Anything else that does not
fit its checksum is damage, and an error.
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
DIGITS = 16
Record = dict[str, Any]


class JournalError(UserError):
    """The journal cannot be used; the message says where and what to do."""


class Line(NamedTuple):
    """A record with the bytes it takes: from ``start`` up to ``end``, and its checksum."""

    record: Record
    start: int
    end: int
    checksum: str


def make_line(record: Record, before: str) -> tuple[bytes, str]:
    """A record as a line, and its checksum, which covers the checksum of the line before."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    checksum = _checksum(before, body)
    return FRONT + checksum.encode() + MIDDLE + body + END, checksum


def parse_line(line: bytes, before: str) -> tuple[Record, str] | None:
    """Record and checksum of a line with its line feed; None if they do not fit."""
    head = len(FRONT) + DIGITS
    checksum, body = line[len(FRONT) : head], line[head + len(MIDDLE) : -len(END)]
    shape = FRONT + checksum + MIDDLE + body + END
    if shape != line or checksum != _checksum(before, body).encode():
        return None
    return json.loads(body), checksum.decode()


def read_lines(path: Path, start: int = 0, before: str = "") -> Iterator[Line]:
    """Lines from a place on, up to an incomplete last one.

    Raises ``JournalError`` for a complete line that does not fit its checksum.
    """
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            found = parse_line(line, before)
            if found is None:
                raise JournalError(
                    f"{path}: the line at byte {start} does not fit its checksum; somebody changed "
                    "it, or the disk did: restore the file from a copy, or cut it off there and "
                    "lose what comes after"
                )
            record, before = found
            yield Line(record, start, start + len(line), before)
            start += len(line)


class Journal:
    """The journal of one set of heads, open for one writer. Not for several threads at once."""

    def __init__(self, directory: Path, header: Record) -> None:
        """Open or make it. ``header`` says whose margins it holds and must be the one on disk."""
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
            self.first = self._check_header()
            self._file = os.open(self.path, os.O_RDWR)
        except BaseException:
            self._lock.close()
            raise
        self.end, self.checksum = self.first.end, self.first.checksum
        self.broken = ""

    def replay(self) -> Iterator[Line]:
        """All records in order; afterwards the journal is ready to be written.

        Cuts off an incomplete last line.
        """
        self.end, self.checksum = self.first.end, self.first.checksum
        for line in read_lines(self.path, self.end, self.checksum):
            self.end, self.checksum = line.end, line.checksum
            yield line
        if os.fstat(self._file).st_size > self.end:
            os.ftruncate(self._file, self.end)
            os.fsync(self._file)

    def records(self) -> Iterator[Record]:
        """All acknowledged records; may be called while another thread writes."""
        end = self.end
        for line in read_lines(self.path, self.first.end, self.first.checksum):
            if line.end > end:
                return
            yield line.record

    def append(self, records: list[Record]) -> None:
        """Write records and sync them. Raises ``JournalError`` and takes no more if that fails."""
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
            # What nobody acknowledged shall not be there after a restart either, if possible.
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
        """Drop records for good, all at once or not at all; how many were dropped."""
        every = list(self.records())
        kept = [record for record in every if keep(record)]
        if len(kept) < len(every):
            end, checksum = self._replace(kept)
            os.close(self._file)
            self._file = os.open(self.path, os.O_RDWR)
            self.end, self.checksum = end, checksum
        return len(every) - len(kept)

    def close(self) -> None:
        """Let others write."""
        os.close(self._file)
        self._lock.close()

    def _replace(self, records: list[Record]) -> tuple[int, str]:
        """Write the journal anew; its length and last checksum."""
        temporary, checksum, end = self.path.with_suffix(".tmp"), "", 0
        temporary.unlink(missing_ok=True)
        # The comparisons of people are nobody else's business.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for record in (self._header, *records):
                line, checksum = make_line(record, checksum)
                end += file.write(line)
        commit_file(temporary, self.path)
        return end, checksum

    def _check_header(self) -> Line:
        first = next(read_lines(self.path), None)
        if first is None or first.record != self._header:
            found = "nothing" if first is None else json.dumps(first.record)
            raise JournalError(
                f"{self.path}: expected the journal of these heads {json.dumps(self._header)}, "
                f"found {found}; margins of other heads say nothing about these: choose another "
                "serve.online.dir"
            )
        return first


def _write_all(descriptor: int, data: bytes, place: int) -> None:
    """A failed attempt leaves a tail that the next start cuts off."""
    while data:
        written = os.pwrite(descriptor, data, place)
        data, place = data[written:], place + written


def _checksum(before: str, body: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(before.encode() + body)
