"""The promises of the store at the level of files: whole, synced, renamed, locked."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsiprep.core.errors import OutputError, StoreBusyError

__all__ = [
    "check_writable",
    "files_digest",
    "lock",
    "output_errors",
    "publish_folder",
    "remove_tree",
    "sync_folder",
    "sync_tree",
    "write_whole",
]

_REMEDY = {
    errno.ENOSPC: "No space left: free some and run the same command again.",
    errno.EDQUOT: "The disk quota is used up: free some space and run the same command again.",
    errno.EROFS: "The file system is read-only; choose another --output.",
    errno.EACCES: "Permission denied; choose another --output.",
    errno.EPERM: "Permission denied; choose another --output.",
    errno.ENAMETOOLONG: "The name is too long: give the slide a shorter slide_id in a manifest.",
    errno.ENOLCK: "The file system has no locks (flock); choose an --output on one that has.",
    errno.ENOTSUP: "The file system has no locks (flock); choose an --output on one that has.",
    errno.ENOSYS: "The file system has no locks (flock); choose an --output on one that has.",
}


MAX_TRIES = 10_000
"""Losses of a race for a file that others make and remove, before something else must be wrong."""


@contextmanager
def output_errors(path: Path, passing: tuple[type[OSError], ...] = ()) -> Iterator[None]:
    """Turn an `OSError` of writing under `path` into an `OutputError` that says what to do.

    Args:
        path: What is being written, for the message.
        passing: Kinds of `OSError` to let through.
    """
    through: tuple[type[OSError], ...] = (OutputError, *passing)
    try:
        yield
    except through:
        raise
    except OSError as err:
        code = err.errno or 0
        raise OutputError(
            f"cannot write {err.filename or path}: {err.strerror or err}.",
            stage="store",
            hint=_REMEDY.get(code, "Check the output folder and run the same command again."),
        ) from err


def check_writable(folder: Path) -> None:
    """Try to write into a folder, or into the nearest one above it; nothing is left there.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(folder):
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryDirectory(prefix=".wsiprep-", dir=there):
            pass


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Make every file and folder under `root` durable."""
    for folder, _, names in os.walk(root):
        for name in names:
            handle = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(folder))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    The new content is written beside it as `.<name>.tmp`, synced, and renamed. The name is
    always the same, so that what a kill leaves behind is taken up by the next write.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name[:200]}.tmp")
        with _alone(beside, fcntl.LOCK_EX) as handle:
            try:
                os.ftruncate(handle, 0)
                with os.fdopen(handle, "wb", closefd=False) as file:
                    file.write(content)
                os.fsync(handle)
                os.replace(beside, path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)


@contextmanager
def _alone(path: Path, how: int) -> Iterator[int]:
    """Hold a locked handle of the file that is at `path` now; it and its folder are made.

    Raises:
        BlockingIOError: `how` does not wait, and another process holds it.
        OSError: it cannot be made or locked.
    """
    handle = _acquire(path, how)
    try:
        yield handle
    finally:
        os.close(handle)


def _acquire(path: Path, how: int) -> int:
    for _ in range(MAX_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another process tidied the folder away between the two calls
        try:
            fcntl.flock(handle, how)
            # The holder before us may have renamed or removed the file while we waited.
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, "it is removed again and again", str(path))


def publish_folder(ready: Path, final: Path) -> None:
    """Move a finished folder to its place, durably; what was there before is removed.

    Both must lie on one file system. A kill leaves the old folder or the new one whole, or none
    where it falls between two renames.
    """
    sync_tree(ready)
    final.parent.mkdir(parents=True, exist_ok=True)
    trash = _put_aside(final, ready.parent) if final.exists() else None
    os.rename(ready, final)
    sync_folder(final.parent)
    if trash is not None:
        shutil.rmtree(trash)


def remove_tree(path: Path, trash_folder: Path) -> None:
    """Take a folder out of sight by rename, then delete it."""
    if path.exists():
        shutil.rmtree(_put_aside(path, trash_folder))


def _put_aside(path: Path, trash_folder: Path) -> Path:
    trash_folder.mkdir(parents=True, exist_ok=True)
    trash = Path(tempfile.mkdtemp(prefix=".trash-", dir=trash_folder))
    os.rename(path, trash / path.name)
    return trash


def files_digest(root: Path, skip: tuple[str, ...] = ()) -> dict[str, list[int | str]]:
    """Length and sha256 of every file under `root`, by POSIX path, sorted.

    Args:
        root: Folder to walk.
        skip: Names of sub-folders of `root` to leave out.
    """
    found: dict[str, list[int | str]] = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in skip or not path.is_file():
            continue
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        found[relative.as_posix()] = [path.stat().st_size, sha]
    return found


@contextmanager
def lock(path: Path, slide: str) -> Iterator[None]:
    """Hold the exclusive right to write a slide; the system releases it when the process ends.

    Raises:
        StoreBusyError: another process holds it.
    """
    try:
        with output_errors(path, passing=(BlockingIOError,)):
            handle = _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise StoreBusyError(
            "another process is writing this slide.",
            slide=slide,
            stage="store",
            hint="Wait for it, then run the same command again.",
        ) from err
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
