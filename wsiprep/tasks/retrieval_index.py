"""Vectors of slides, kept in one file so that a cohort is embedded once and searched often."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.errors import StoreCorruptError, StoreMismatchError
from wsiprep.store.disk import write_whole

__all__ = ["Entry", "Hit", "RetrievalIndex", "read_index", "write_index"]

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Hit:
    """A slide that was found.

    Attributes:
        slide: Its id.
        store: Path of its store.
        cosine: Of its vector with the query's.
    """

    slide: str
    store: str
    cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A slide for an index.

    Attributes:
        vector: float32 (d,), of length 1.
        row: As of `RetrievalIndex.slides`.
    """

    vector: NDArray[np.float32]
    row: dict[str, Any]

    @classmethod
    def of(
        cls, store: Path, slide: str, features_key: str, patches: int, vector: NDArray[np.float32]
    ) -> Entry:
        """An entry of a slide.

        Args:
            store: Path of its store.
            slide: Its id.
            features_key: Identity of its features.
            patches: That the model was shown.
            vector: float32 (d,), of length 1.
        """
        row = {"id": slide, "store": str(store.resolve()), "features_key": features_key}
        return cls(vector, {**row, "patches": patches})


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalIndex:
    """Vectors of slides, of one model.

    Attributes:
        vectors: float32 (N, d), of length 1.
        slides: Of each: `id`, `store` (path), `features_key`, `patches`.
        model_sha256: The model that made them.
        max_patches: Most patches of a slide that it was shown; None for all.
    """

    vectors: NDArray[np.float32]
    slides: tuple[dict[str, Any], ...]
    model_sha256: str
    max_patches: int | None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.slides):
            raise ValueError(f"vectors {self.vectors.shape} for {len(self.slides)} slides")

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def known(self) -> set[tuple[str, str]]:
        """Path of the store and identity of the features of every slide."""
        return {(s["store"], s["features_key"]) for s in self.slides}

    def added(self, entries: Sequence[Entry]) -> RetrievalIndex:
        """With more slides; those of the same stores are replaced."""
        if not entries:
            return self
        new = {entry.row["store"]: entry for entry in entries}
        keep = [n for n, s in enumerate(self.slides) if s["store"] not in new]
        vectors = np.stack([entry.vector for entry in new.values()])
        return replace(
            self,
            vectors=np.concatenate([self.vectors[keep], vectors]).astype(np.float32),
            slides=(*(self.slides[n] for n in keep), *(entry.row for entry in new.values())),
        )

    def search(
        self, query: NDArray[np.float32], top: int, without: Path | None = None
    ) -> list[Hit]:
        """The slides nearest to a query, nearest first; equal ones in the order of the index.

        Args:
            query: float32 (d,), of length 1.
            top: Most slides to give.
            without: Store that is left out: that of the query itself.
        """
        own = None if without is None else str(without.resolve())
        cosine = self.vectors @ query
        order = [int(n) for n in np.argsort(-cosine, kind="stable")]
        rows = [n for n in order if self.slides[n]["store"] != own][:top]
        return [Hit(self.slides[n]["id"], self.slides[n]["store"], float(cosine[n])) for n in rows]


def write_index(path: Path, index: RetrievalIndex) -> None:
    """Write an index whole, as safetensors; what is known of the slides is in its metadata.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.numpy import save

    words = {
        "format": FORMAT,
        "kind": "wsiprep retrieval index",
        "model_sha256": index.model_sha256,
        "max_patches": index.max_patches,
        "slides": list(index.slides),
    }
    content = save(
        {"vectors": np.ascontiguousarray(index.vectors, np.float32)},
        {"wsiprep": json.dumps(words, sort_keys=True)},
    )
    write_whole(path, content)


def read_index(path: Path, *, model_sha256: str, max_patches: int | None) -> RetrievalIndex:
    """Read an index.

    Args:
        path: Of the file.
        model_sha256: The model that will ask it.
        max_patches: Most patches of a slide that this model is shown.

    Raises:
        StoreCorruptError: it is not there, or no index.
        StoreMismatchError: another model made it, or this one with another `max_patches`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            words = json.loads((file.metadata() or {})["wsiprep"])
            vectors = file.get_tensor("vectors")
        if words["format"] != FORMAT:
            raise StoreMismatchError(
                f"{path} is an index of format {words['format']}; this version reads {FORMAT}.",
                stage="store",
                hint="Make it anew with this version.",
            )
        index = RetrievalIndex(
            vectors, tuple(words["slides"]), words["model_sha256"], words["max_patches"]
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
        raise StoreCorruptError(
            f"{path} cannot be read as an index of slides: {err!r}.",
            stage="store",
            hint="Make one by `wsiprep retrieve SLIDES … --index FILE`.",
        ) from err
    if index.model_sha256 != model_sha256:
        raise StoreMismatchError(
            f"{path} was made by model {index.model_sha256[:12]}, and this is model "
            f"{model_sha256[:12]}: their vectors cannot be compared.",
            stage="store",
            hint="Give the model it was made with by --model, or another --index.",
        )
    if index.max_patches != max_patches:
        raise StoreMismatchError(
            f"{path} was made with --max-patches {index.max_patches or 'all'}, now it is "
            f"{max_patches or 'all'}.",
            stage="store",
            hint="Pass the same --max-patches, or another --index.",
        )
    return index
