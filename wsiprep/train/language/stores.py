"""From the slides that a sample names to stores in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wsiprep.core.errors import ManifestError

__all__ = ["StoreFolder", "case_name"]

_SUFFIX: Final = ".zarr"
_BARCODE: Final = re.compile(r"tcga-[a-z0-9]{2}-[a-z0-9]{4}(-[a-z0-9]+)*")


def case_name(stores: Iterable[Path]) -> str:
    """What a case is called, after the stores of its slides.

    Patches are drawn by it, in training, evaluations and answers alike.
    """
    return " + ".join(path.name.removesuffix(_SUFFIX) for path in stores)


class StoreFolder:
    """Stores of a folder, found by slide id.

    A slide id is the name of its store without `.zarr`, in any case where only one fits. The
    barcode of a TCGA patient or slide, which public sets give without the UUID that ends file
    names, stands for every store whose name goes on after it: several slides of a case are one
    sample.

    Args:
        folder: Where stores lie; its entries are read once.

    Raises:
        ManifestError: it is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ManifestError(f"{folder} is not a folder.", hint="Give --stores a folder.")
        self.folder = folder
        self._stores = {
            path.name.removesuffix(_SUFFIX): path
            for path in sorted(folder.iterdir())
            if path.name.endswith(_SUFFIX)
        }
        self._any_case: dict[str, list[Path]] = {}
        for name, path in self._stores.items():
            self._any_case.setdefault(name.casefold(), []).append(path)

    def find(self, slide: str) -> tuple[Path, ...]:
        """Stores of a slide id or of the path of a store, sorted; empty where there is none.

        Raises:
            ManifestError: by its letters it could be several.
        """
        if slide.endswith(_SUFFIX):
            path = self.folder / slide
            return (path,) if path.is_dir() else ()
        if slide in self._stores:
            return (self._stores[slide],)
        name = slide.casefold()
        alike = self._any_case.get(name, [])
        if alike or not _BARCODE.fullmatch(name):
            if len(alike) > 1:
                raise ManifestError(
                    f"'{slide}' could be {' or '.join(path.name for path in alike)}.",
                    hint="Name the slide as its store is named, in the same case.",
                )
            return tuple(alike)
        longer = (name + "-", name + ".")
        return tuple(p for stem, p in self._stores.items() if stem.casefold().startswith(longer))
