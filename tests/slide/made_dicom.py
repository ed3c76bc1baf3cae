"""DICOM whole-slide instances written by hand, byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsiprep.slide.dicom import WSI_STORAGE

PLAIN, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
UNDEFINED = 0xFFFFFFFF
_LONG = {"OB", "OV", "OW", "SQ", "UT"}

Encoder = Callable[[NDArray[np.uint8]], bytes]


def jpeg(subsampling: str = "422", colour: str = "YCBCR", quality: int = 90) -> Encoder:
    """JPEG frames with a JFIF (YCBCR) or Adobe (RGB) marker."""

    def encode(tile: NDArray[np.uint8]) -> bytes:
        data: bytes = imagecodecs.jpeg8_encode(
            tile, level=quality, colorspace="RGB", outcolorspace=colour, subsampling=subsampling
        )
        return data

    return encode


_JPEG_422 = jpeg()


def jpeg2000(*, mct: bool, level: int = 0) -> Encoder:
    """JPEG 2000 codestreams; reversible at level 0."""

    def encode(tile: NDArray[np.uint8]) -> bytes:
        data: bytes = imagecodecs.jpeg2k_encode(
            tile, level=level, codecformat="j2k", mct=mct, reversible=level == 0
        )
        return data

    return encode


def raw(tile: NDArray[np.uint8]) -> bytes:
    """Uncompressed frames."""
    return tile.tobytes()


def element(group: int, number: int, vr: str, value: bytes | str | Sequence[int]) -> bytes:
    """An explicit little-endian element; integers are packed as `vr` says."""
    if isinstance(value, str):
        value = value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    elif not isinstance(value, bytes):
        value = struct.pack(
            f"<{len(value)}{ {'US': 'H', 'UL': 'I', 'SL': 'i', 'OV': 'Q'}[vr] }", *value
        )
    head = struct.pack("<HH", group, number) + vr.encode()
    if vr in _LONG:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def sequence(group: int, number: int, items: Sequence[bytes], *, undefined: bool = False) -> bytes:
    """A sequence of items, of defined or undefined length throughout."""
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
    body = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED if undefined else len(item)) + item + end
        for item in items
    )
    if not undefined:
        return element(group, number, "SQ", body)
    head = struct.pack("<HH2sHI", group, number, b"SQ", 0, UNDEFINED)
    return head + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def fragments(frames: Sequence[Sequence[bytes]], table: str = "basic") -> bytes:
    """Offset tables and pixel data: "basic", "extended", "none" or "wrong" (basic, shifted)."""
    items, offsets, lengths, at = [], [], [], 0
    for frame in frames:
        offsets.append(at)
        lengths.append(sum(map(len, frame)))
        for part in frame:
            part += b"\0" * (len(part) % 2)
            items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part)
            at += len(items[-1])
    basic = b""
    if table in ("basic", "wrong"):
        shift = 4 * (table == "wrong")
        basic = struct.pack(
            f"<{len(offsets)}I", *(n + shift * (i > 1) for i, n in enumerate(offsets))
        )
    extended = b""
    if table == "extended":
        extended = element(0x7FE0, 1, "OV", offsets) + element(0x7FE0, 2, "OV", lengths)
    return b"".join((
        extended,
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED),
        struct.pack("<HHI", 0xFFFE, 0xE000, len(basic)), basic,
        *items,
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ))  # fmt: skip


def tiles_of(image: NDArray[np.uint8], tile: int) -> list[NDArray[np.uint8]]:
    """Tiles row by row, those at the edge filled up by repetition."""
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, -h % tile), (0, -w % tile), (0, 0)), mode="edge")
    return [
        np.ascontiguousarray(padded[y : y + tile, x : x + tile])
        for y in range(0, h, tile)
        for x in range(0, w, tile)
    ]


def write_instance(
    path: Path,
    image: NDArray[np.uint8],
    *,
    encode: Encoder = _JPEG_422,
    syntax: str = JPEG,
    photometric: str = "YBR_FULL_422",
    tile: int = 128,
    spacing: str | None = "0.0005\\0.0005",
    objective: str | None = "20",
    image_type: str = "ORIGINAL\\PRIMARY\\VOLUME\\NONE",
    series: str = "1.2.3",
    instance: str = "1.2.3.4",
    table: str = "basic",
    split: int = 1,
    keep: Sequence[int] | None = None,
    sparse: bool = False,
    undefined: bool = False,
    part: tuple[int, str] | None = None,
    changed: dict[tuple[int, int], bytes] | None = None,
) -> Path:
    """Write one instance.

    Args:
        path: Where.
        image: The level.
        encode: How a frame is encoded.
        syntax: Transfer syntax.
        photometric: What the file says that the channels are.
        tile: Size of a frame in pixels.
        spacing: PixelSpacing.
        objective: ObjectiveLensPower.
        image_type: ImageType.
        series: UID of the series.
        instance: UID of the instance.
        table: See `fragments`.
        split: Fragments a frame.
        keep: Numbers of the frames that are written; all by default.
        sparse: TILED_SPARSE, with positions.
        undefined: Sequences of undefined length.
        part: First frame, and UID of the instance that this is a part of.
        changed: Elements put in the place of others, or added.
    """
    h, w = image.shape[:2]
    cols = -(-w // tile)
    pixels = tiles_of(image, tile)
    numbers = list(range(len(pixels))) if keep is None else list(keep)
    frames = [encode(pixels[number]) for number in numbers]
    body: dict[tuple[int, int], bytes] = {}

    def put(group: int, number: int, vr: str, value: Any) -> None:
        body[group, number] = element(group, number, vr, value)

    put(0x0008, 0x0008, "CS", image_type)
    put(0x0008, 0x0016, "UI", WSI_STORAGE)
    put(0x0008, 0x0018, "UI", instance)
    put(0x0020, 0x000E, "UI", series)
    put(0x0020, 0x9311, "CS", "TILED_SPARSE" if sparse else "TILED_FULL")
    if part is not None:
        put(0x0020, 0x0242, "UI", part[1])
        put(0x0020, 0x9228, "UL", [part[0]])
    values = {0x0002: 3, 0x0006: 0, 0x0010: tile, 0x0011: tile, 0x0100: 8, 0x0101: 8, 0x0102: 7,
              0x0103: 0}  # fmt: skip
    for number, value in values.items():
        put(0x0028, number, "US", [value])
    put(0x0028, 0x0004, "CS", photometric)
    put(0x0028, 0x0008, "IS", str(len(frames)))
    put(0x0048, 0x0006, "UL", [w])
    put(0x0048, 0x0007, "UL", [h])
    if objective is not None:
        power = element(0x0048, 0x0112, "DS", objective)
        body[0x0048, 0x0105] = sequence(0x0048, 0x0105, [power], undefined=undefined)
    measures = element(0x0028, 0x0030, "DS", spacing) if spacing else b""
    inner = sequence(0x0028, 0x9110, [measures], undefined=undefined)
    body[0x5200, 0x9229] = sequence(0x5200, 0x9229, [inner], undefined=undefined)
    if sparse:
        places = [
            element(0x0048, 0x021E, "SL", [number % cols * tile + 1])
            + element(0x0048, 0x021F, "SL", [number // cols * tile + 1])
            for number in numbers
        ]
        groups = [sequence(0x0048, 0x021A, [place], undefined=undefined) for place in places]
        body[0x5200, 0x9230] = sequence(0x5200, 0x9230, groups, undefined=undefined)
    body.update(changed or {})
    meta = element(0x0002, 0x0002, "UI", WSI_STORAGE) + element(0x0002, 0x0003, "UI", instance)
    meta += element(0x0002, 0x0010, "UI", syntax)
    meta = element(0x0002, 0x0000, "UL", [len(meta)]) + meta
    if syntax == PLAIN:
        data = element(0x7FE0, 0x0010, "OB", b"".join(frames))
    else:
        parts = [_split(frame, split) for frame in frames]
        data = fragments(parts, table)
    path.write_bytes(
        bytes(128) + b"DICM" + meta + b"".join(body[tag] for tag in sorted(body)) + data
    )
    return path


def write_series(
    folder: Path, image: NDArray[np.uint8], shrinks: Sequence[int] = (1, 2, 4), **kwargs: Any
) -> Path:
    """Write a folder of one instance a level."""
    folder.mkdir(exist_ok=True)
    for level, shrink in enumerate(shrinks):
        size = (image.shape[1] // shrink, image.shape[0] // shrink)
        small = image if shrink == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        millimetres = 0.0005 * shrink
        write_instance(
            folder / f"{level}.dcm",
            small,
            **{
                "instance": f"1.2.3.{level}",
                "spacing": f"{millimetres}\\{millimetres}",
                "image_type": "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if level else
                "ORIGINAL\\PRIMARY\\VOLUME\\NONE",
                **kwargs,
            },
        )  # fmt: skip
    return folder


def _split(data: bytes, parts: int) -> list[bytes]:
    size = -(-len(data) // parts)
    size += size % 2
    return [data[at : at + size] for at in range(0, len(data), size)]
