"""Whose store is whose: finding, naming, making and holding the store of a slide."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from wsiprep.core.errors import StoreCorruptError, StoreError, StoreMismatchError
from wsiprep.core.types import SlideInfo
from wsiprep.store.disk import lock, output_errors, publish_folder, remove_tree
from wsiprep.store.manifest import Manifest
from wsiprep.store.schema import GRIDS, LOCKS_FOLDER, MAPS, WORK_FOLDER
from wsiprep.store.write import SlideStore, fresh_folder, write_group

__all__ = ["claim_store", "find_store", "hold_store", "store_path"]


def store_path(out: Path, slide_id: str) -> Path:
    """Where the store of a slide id lies."""
    return out / f"{slide_id}.zarr"


def find_store(out: Path, slide_id: str, fingerprint: str) -> Manifest | None:
    """The store in `out` that holds this slide under this id, or under this id made unique.

    Raises:
        StoreCorruptError, StoreMismatchError: a store of that name cannot be read.
    """
    for name in (slide_id, _unique_id(slide_id, fingerprint)):
        path = store_path(out, name)
        if path.is_dir():
            manifest = Manifest.read(path)
            if manifest.slide.fingerprint == fingerprint:
                return manifest
    return None


def _unique_id(slide_id: str, fingerprint: str) -> str:
    return f"{slide_id}-{fingerprint[:8]}"


@contextmanager
def claim_store(
    out: Path, info: SlideInfo, *, fixed_id: bool = False, overwrite: bool = False
) -> Iterator[SlideStore]:
    """Find or make the store of a slide in `out`, and hold it against other processes.

    Two slides with the same id from different paths get different stores: the second is called
    `<id>-<first 8 digits of its fingerprint>`. The same path with another content is refused.

    Args:
        out: Output folder.
        info: The slide.
        fixed_id: The user gave the id; it is never changed.
        overwrite: Replace a store whose slide has changed.

    Raises:
        StoreMismatchError: the store of that name holds another slide, or this slide at another
            µm/px, and `overwrite` is False.
        StoreBusyError: another process is writing this slide.
        OutputError: the folder cannot be written.
    """
    names = [info.id] if fixed_id else [info.id, _unique_id(info.id, info.fingerprint)]
    for name in names:
        path = store_path(out, name)
        # A store of another slide is passed by without asking for its lock, which may be held.
        if name != names[-1] and path.is_dir() and _is_another(path, info):
            continue
        with lock(out / WORK_FOLDER / LOCKS_FOLDER / name, info.id):
            if path.is_dir():
                reason: StoreError | None = _unreadable(path) if overwrite else None
                if reason is None:
                    if name != names[-1] and _is_another(path, info):
                        continue
                    reason = _difference(path, Manifest.read(path).slide, info)
                if reason is not None:
                    if not overwrite:
                        raise reason
                    shutil.rmtree(out / WORK_FOLDER / name, ignore_errors=True)
                    remove_tree(path, out / WORK_FOLDER / name)
            if not path.is_dir():
                _make_root(out, path, replace(info, id=name))
            _keep_groups(path)
            store = SlideStore(out, name, Manifest.read(path))
            store.sweep()
            try:
                yield store
            finally:
                store.sweep()
                if not store.manifest.units:  # nothing came of it: a folder would only mislead
                    remove_tree(path, out / WORK_FOLDER / name)
                    shutil.rmtree(out / WORK_FOLDER / name, ignore_errors=True)
            return


@contextmanager
def hold_store(path: Path) -> Iterator[SlideStore]:
    """Hold a store that is there, to add what is made from its own content; needs no slide.

    Args:
        path: `<slide>.zarr`, of whatever name.

    Raises:
        StoreCorruptError, StoreMismatchError: it cannot be read.
        StoreBusyError: another process is writing this slide.
        OutputError: it cannot be written.
    """
    path = path.absolute()
    slide = Manifest.read(path).slide
    with lock(path.parent / WORK_FOLDER / LOCKS_FOLDER / path.stem, slide.id):
        _keep_groups(path)
        store = SlideStore(path.parent, path.stem, Manifest.read(path))
        try:
            yield store
        finally:
            store.sweep()


def _unreadable(path: Path) -> StoreCorruptError | None:
    """Why the root of a store is damaged, or None."""
    try:
        Manifest.read(path)
    except StoreCorruptError as err:
        return err
    return None


def _is_another(path: Path, info: SlideInfo) -> bool:
    """Whether the store at `path` is, as far as can be read, that of another slide."""
    try:
        stored = Manifest.read(path).slide
    except StoreCorruptError:
        return False
    return stored.fingerprint != info.fingerprint and stored.uri != info.uri


def _difference(path: Path, stored: SlideInfo, info: SlideInfo) -> StoreMismatchError | None:
    """Why the store at `path` cannot go on with this slide, or None."""
    anew = "or start this slide anew by `wsiprep run` or `segment` with --overwrite."
    if stored.fingerprint != info.fingerprint:
        return _other_slide(path, stored, info)
    if abs(stored.mpp / info.mpp - 1) > 1e-6:
        what = f"was made at {stored.mpp:g} µm/px, now the slide has {info.mpp:g}"
        how = f"Pass --slide-mpp {stored.mpp:g}, {anew}"
    elif stored.size0 != info.size0 or stored.downsamples != info.downsamples:
        what = f"was made from the levels that reader '{stored.reader}' saw, not '{info.reader}'"
        how = f"Pass --reader {stored.reader}, {anew}"
    else:
        return None
    return StoreMismatchError(f"{path.name} {what}.", slide=info.id, stage="store", hint=how)


def _other_slide(path: Path, stored: SlideInfo, info: SlideInfo) -> StoreMismatchError:
    if stored.uri == info.uri:
        return StoreMismatchError(
            f"the slide file has changed since {path.name} was made.",
            slide=info.id,
            stage="store",
            hint="Start it anew by `wsiprep run` or `segment` with --overwrite, or write to "
            "another --output.",
        )
    return StoreMismatchError(
        f"{path.name} already holds another slide, {stored.uri}.",
        slide=info.id,
        stage="store",
        hint="Give each slide its own slide_id in the manifest, or write to another --output.",
    )


def _make_root(out: Path, path: Path, info: SlideInfo) -> None:
    """Make an empty store: its folder appears with the root attributes in it."""
    names = ("wsiprep", "zarr", "numpy", "openslide-python", "tiffslide", "opencv-python-headless")
    versions = {name: version(name) for name in names}
    ready = fresh_folder(out / WORK_FOLDER / path.stem / "root")
    with output_errors(path):
        Manifest(ready, info, versions, {}).write()
        (ready / GRIDS).mkdir()
        write_group(ready / GRIDS, {})
        publish_folder(ready, path)


def _keep_groups(path: Path) -> None:
    """Restore the `zarr.json` of groups that hold parts, where one was lost."""
    grids = path / GRIDS
    for folder in [grids, *grids.glob("*/features"), *grids.glob(f"*/features/*/{MAPS}")]:
        if folder.is_dir() and not (folder / "zarr.json").is_file():
            write_group(folder, {})
