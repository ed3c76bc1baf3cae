"""Text files of others, plain or gzip, read with a bound on what they may unfold to."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from wsiprep.core.errors import ManifestError

__all__ = ["MAX_BYTES", "MAX_LINE_BYTES", "first_character", "read_lines", "read_text"]

MAX_BYTES: Final = 1 << 30
"""Of one file, unpacked: 1 GiB. The largest public set, 175,000 questions, takes 0.2 GB."""

MAX_LINE_BYTES: Final = 1 << 24
"""Of one line, unpacked: 16 MiB."""

_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The whole of a UTF-8 file, gzip or not, without a byte order mark.

    Args:
        path: The file; that it is gzip is seen from its first bytes, not from its name.
        limit: Bytes it may have, unpacked.

    Raises:
        ManifestError: it cannot be read, unfolds to more than `limit`, or is not UTF-8.
    """
    with _opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _too_long(path, f"more than {limit:,} bytes")
    return _decoded(content.removeprefix(_BOM), str(path))


def first_character(path: Path) -> str:
    """The first character of a file, gzip or not, that is no blank, of ASCII; empty if none.

    Raises:
        ManifestError: it cannot be read.
    """
    with _opened(path) as file:
        head = file.read(1 << 16).removeprefix(_BOM).lstrip()
    return head[:1].decode("ascii", "replace")


def read_lines(path: Path) -> Generator[tuple[int, str], None, None]:
    r"""Lines of a UTF-8 file, gzip or not, with their numbers from 1.

    Only \n and \r\n end a line: JSON may hold other separators inside its texts.

    Raises:
        ManifestError: it cannot be read, is too long, or is not UTF-8.
    """
    read = number = 0
    with _opened(path) as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            read += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise _too_long(path, f"more than {MAX_LINE_BYTES:,} bytes in line {number}")
            if read > MAX_BYTES:
                raise _too_long(path, f"more than {MAX_BYTES:,} bytes")
            line = line.removeprefix(_BOM) if number == 1 else line
            yield number, _decoded(line, f"{path}, line {number}").rstrip("\r\n")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open(path, "rb") as file:
            packed = file.peek(2)[:2] == _GZIP
            if packed:
                with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                    yield unpacked  # type: ignore[misc]  # it is read like a file
            else:
                yield file
    except (OSError, EOFError, zlib.error) as err:
        reason = getattr(err, "strerror", None) or err
        raise ManifestError(f"{path} cannot be read: {reason}.") from err


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as err:
        raise ManifestError(f"{where} is not UTF-8: {err.reason} at byte {err.start}.") from err


def _too_long(path: Path, what: str) -> ManifestError:
    return ManifestError(f"{path} holds {what}.", hint="Split it into several files.")
