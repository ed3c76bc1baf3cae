"""What features were made with: a checkpoint keeps it, and a store must match it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np

from wsiprep.core.errors import StoreMismatchError
from wsiprep.core.types import CHUNK_CELLS
from wsiprep.store.read import FeatureArray, FeatureStore

__all__ = ["MPP_TOLERANCE", "Fingerprint"]

MPP_TOLERANCE: Final = 0.05
"""Relative difference of µm/px up to which two resolutions are one, as when grids are placed."""

NORM_TOLERANCE: Final = 0.01
"""How far from 1 the length of a vector may be; rounding to float16 moves it by 0.001."""

_UNIT: Final = {"mpp": " µm/px", "patch_px": " px", "stride_px": " px"}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides which numbers a patch becomes.

    Attributes:
        encoder: Name of the encoder.
        weights_sha256: Hash of its weights; empty where it has none.
        dim: D, length of a vector.
        mpp: Resolution achieved, µm/px; slides differ a little, see `MPP_TOLERANCE`.
        patch_px: Side of a patch.
        stride_px: Distance of neighbours, in patch pixels.
        normalised: Whether vectors have length 1; None where there is no vector, so that nobody can
            say: it differs from neither.
    """

    encoder: str
    weights_sha256: str
    dim: int
    mpp: float
    patch_px: int
    stride_px: int
    normalised: bool | None

    @classmethod
    def of(
        cls, store: FeatureStore, grid: str | None = None, encoder: str | None = None
    ) -> Fingerprint:
        """Of features in a store; grid and encoder may be left out where there is only one.

        Raises:
            MissingStageError: there are no such features.
            StoreCorruptError: they are damaged.
        """
        return cls.of_features(store.features(encoder, grid))

    @classmethod
    def of_features(cls, features: FeatureArray) -> Fingerprint:
        """Of features that are open. Whether they have length 1 is seen on their first chunk."""
        spec = features.attributes["encoder"]
        return cls(
            encoder=str(spec["name"]),
            weights_sha256=str(spec["weights_sha256"]),
            dim=features.dim,
            mpp=float(features.attributes["mpp"]),
            patch_px=features.grid.plan.patch_px,
            stride_px=features.grid.stride_px,
            normalised=_normalised(features),
        )

    @classmethod
    def of_canonical(cls, values: Mapping[str, Any]) -> Fingerprint:
        """The inverse of `canonical`, of features that a model was trained on.

        Raises:
            StoreMismatchError: a field is missing, unknown, or of another type.
        """
        kinds = {"str": (str,), "int": (int,), "float": (int, float), "bool | None": (bool,)}
        expected = {field.name: kinds[str(field.type)] for field in fields(cls)}
        wrong = sorted(set(values) ^ set(expected)) or [
            name for name, kind in expected.items() if type(values[name]) not in kind
        ]
        if wrong:
            raise StoreMismatchError(
                f"the fingerprint of this checkpoint cannot be used: {', '.join(wrong)}.",
                stage="store",
                hint="It was written by another version of wsiprep, or edited.",
            )
        return cls(**values)

    def canonical(self) -> dict[str, Any]:
        """Plain JSON types, as a checkpoint keeps it."""
        return asdict(self)

    def differences(self, other: Fingerprint) -> tuple[str, ...]:
        """Names of the fields in which two fingerprints differ; resolution within tolerance.

        What one of them cannot know, for it is of a slide without vectors, is no difference.
        """
        return tuple(
            field.name
            for field in fields(self)
            if not _same(field.name, getattr(self, field.name), getattr(other, field.name))
        )

    def check(
        self,
        other: Fingerprint,
        *,
        slide: str | None = None,
        ours: str = "the checkpoint",
        theirs: str = "the store",
    ) -> None:
        """Refuse features made with something else.

        Args:
            other: Of the features.
            slide: Slide they are of.
            ours: What this fingerprint is of, for the message.
            theirs: What the other is of.

        Raises:
            StoreMismatchError: names each field that differs, with both values.
        """
        names = self.differences(other)
        if not names:
            return
        pairs = (
            f"{n} is {_shown(self, n)} in {ours}, {_shown(other, n)} in {theirs}" for n in names
        )
        raise StoreMismatchError(
            f"{theirs} and {ours} do not fit: {'; '.join(pairs)}.",
            slide=slide,
            stage="store",
            hint="Embed the slides as for the other (`wsiprep embed` with --encoder, --mpp, "
            "--patch-size, --overlap), or name other features by grid and encoder.",
        )


def _same(name: str, one: Any, other: Any) -> bool:
    if name == "mpp":
        return bool(abs(one / other - 1) <= MPP_TOLERANCE)
    if one is None or other is None:
        return True
    return bool(one == other)


def _shown(of: Fingerprint, name: str) -> str:
    value = getattr(of, name)
    if name == "weights_sha256":
        return value[:12] or "none"
    if isinstance(value, float):
        value = f"{value:.4g}"
    elif isinstance(value, bool):
        value = "yes" if value else "no"
    return f"{value}{_UNIT.get(name, '')}"


def _normalised(features: FeatureArray) -> bool | None:
    """Whether the vectors of the first chunk that holds any have length 1; None without any."""
    cell = features.grid.cell
    there = cell[features.valid[cell[:, 0], cell[:, 1]]]
    if not len(there):
        return None
    row, col = there[0] // CHUNK_CELLS * CHUNK_CELLS
    window = features.window(int(row), int(col), CHUNK_CELLS, CHUNK_CELLS)
    lengths = np.linalg.norm(window.vectors[window.valid].astype(np.float32), axis=1)
    return bool((np.abs(lengths - 1) <= NORM_TOLERANCE).all())
