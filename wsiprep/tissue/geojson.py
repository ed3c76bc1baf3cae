"""Outlines of tissue as GeoJSON in level-0 pixels, in the form QuPath imports.

A ring runs along the borders of mask pixels, not through their centres, so that the polygons
cover exactly the area of the mask: filled by even-odd at the mask's resolution they give the mask
back, pixel for pixel. Exterior rings and holes are wound as RFC 7946 (section 3.1.6) asks when x
and y are read as a right-handed plane: exteriors have positive signed area, holes negative.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.core.types import TissueMask
from wsiprep.tissue.sections import boxes_of

__all__ = ["outline_polygons", "tissue_geojson"]

TISSUE_RGB = (0, 128, 96)
SEEN_RGB = {"Pen": (230, 120, 0), "Edge": (110, 110, 110), "Fold": (150, 60, 170)}
DECIMALS = 2
Rings = list[list[list[float]]]


def tissue_geojson(mask: TissueMask) -> str:
    """Tissue by sections, and ink, edges and folds that were seen, as a FeatureCollection.

    Args:
        mask: The tissue of a slide.

    Returns:
        GeoJSON text ending in a newline: one Polygon feature for every connected piece of a
        section, its holes as inner rings, in level-0 pixels, section by section from top to
        bottom. Features of class `Tissue` have a measurement `section`, which QuPath shows and
        writes again; the others are of class `Pen`, `Edge` and `Fold`. The same mask gives the
        same text. An empty mask gives a collection without features.
    """
    features: list[dict[str, Any]] = []
    for section, box in boxes_of(mask.section).items():
        features += _features(
            mask.section[box] == section,
            mask.scale0,
            "Tissue",
            TISSUE_RGB,
            corner=(box[1].start, box[0].start),
            first=len(features) + 1,
            section=section,
        )
    for kind, rgb in SEEN_RGB.items():
        features += _features(getattr(mask, kind.lower()), mask.scale0, kind, rgb)
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, separators=(",", ":"), ensure_ascii=False) + "\n"


def _features(
    mask: NDArray[np.bool_],
    scale0: tuple[float, float],
    kind: str,
    rgb: tuple[int, int, int],
    *,
    corner: tuple[int, int] = (0, 0),
    first: int = 1,
    section: int | None = None,
) -> list[dict[str, Any]]:
    known = {} if section is None else {"measurements": {"section": section}}
    return [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "name": f"{kind.lower()} {number}",
                "classification": {"name": kind, "color": list(rgb)},
                "isLocked": False,
                **known,
            },
        }
        for number, rings in enumerate(outline_polygons(mask, scale0, corner), start=first)
    ]


def outline_polygons(
    mask: NDArray[np.bool_],
    scale0: tuple[float, float],
    corner: tuple[float, float] = (0, 0),
) -> list[Rings]:
    """Rings of every 4-connected piece, exterior first, scaled to level-0 pixels.

    Pieces that touch at a corner only are separate polygons: one ring through the shared corner
    would touch itself, which makers of valid geometry refuse.

    Args:
        mask: bool (h, w).
        scale0: Level-0 pixels per mask pixel along x and y.
        corner: x and y of the mask's top-left corner, in mask pixels.

    Returns:
        For each piece its closed rings of [x, y], in level-0 pixels.
    """
    if not mask.any():
        return []
    rings = _border_rings(mask)
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    outer: dict[int, Rings] = {}
    holes: list[tuple[int, list[list[float]]]] = []
    for ring, area2, (row, col) in rings:
        piece = int(labels[row, col])
        points = np.round((ring + corner) * np.asarray(scale0), DECIMALS).tolist()
        if area2 > 0:
            outer[piece] = [points]
        else:
            holes.append((piece, points))
    for piece, points in holes:
        outer[piece].append(points)
    return [outer[piece] for piece in sorted(outer)]


def _border_rings(
    mask: NDArray[np.bool_],
) -> list[tuple[NDArray[np.float64], int, tuple[int, int]]]:
    """Closed rings along pixel borders.

    Every border edge is walked with its pixel on the right hand (y down), so exteriors have
    positive signed area in (x, y) and holes negative. Where four pixels meet as a chessboard the
    walk turns towards its own pixel, which keeps rings of different pieces apart.

    Returns:
        For each ring: float64 (n, 2) corners (x, y) in mask pixels with the first repeated at
        the end, straight runs merged; twice its signed area; a pixel (row, col) it borders.
    """
    w = mask.shape[1]
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    starts, ends, headings, owners = [], [], [], []
    # Heading 0 right, 1 down, 2 left, 3 up; offsets of the edge's ends from the pixel's corner.
    sides = (
        (0, padded[:-2, 1:-1], (0, 0), (0, 1)),
        (1, padded[1:-1, 2:], (0, 1), (1, 1)),
        (2, padded[2:, 1:-1], (1, 1), (1, 0)),
        (3, padded[1:-1, :-2], (1, 0), (0, 0)),
    )
    for heading, beyond, (r0, c0), (r1, c1) in sides:
        rows, cols = np.nonzero(inside & ~beyond)
        starts.append((rows + r0) * (w + 1) + cols + c0)
        ends.append((rows + r1) * (w + 1) + cols + c1)
        headings.append(np.full(len(rows), heading))
        owners.append(rows * w + cols)
    start, end = np.concatenate(starts), np.concatenate(ends)
    facing, owner = np.concatenate(headings), np.concatenate(owners)

    # Follow each edge to the edge that starts where it ends: at most two do, and of two the one
    # that turns right stays on the same pixel.
    order = np.lexsort((facing, start))
    first = np.searchsorted(start[order], end, side="left")
    choice = order[first]
    second = order[np.minimum(first + 1, len(order) - 1)]
    twice = start[second] == end
    right = facing[second] == (facing + 1) % 4
    following = np.where(twice & right, second, choice)
    return _walk(following, start, facing, owner, w)


def _walk(
    following: NDArray[np.int64],
    start: NDArray[np.int64],
    heading: NDArray[np.int64],
    owner: NDArray[np.int64],
    w: int,
) -> list[tuple[NDArray[np.float64], int, tuple[int, int]]]:
    """Turn the successor of every edge into rings, the topmost leftmost first."""
    chain, turn = following.tolist(), np.zeros(len(following), dtype=np.bool_)
    turn[following] = heading[following] != heading
    turns = turn.tolist()
    seen = bytearray(len(chain))
    rings = []
    for edge in np.lexsort((heading, owner)).tolist():
        if seen[edge]:
            continue
        corners = []
        here = edge
        while not seen[here]:
            seen[here] = 1
            if turns[here]:
                corners.append(here)
            here = chain[here]
        row, col = divmod(int(owner[edge]), w)
        for loop in _simple_loops(start[np.asarray(corners)].tolist()):
            at = np.asarray([*loop, loop[0]])
            x, y = at % (w + 1), at // (w + 1)
            area2 = int(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))
            rings.append((np.stack([x, y], axis=1).astype(np.float64), area2, (row, col)))
    return rings


def _simple_loops(corners: list[int]) -> list[list[int]]:
    """Split a loop wherever it passes a corner twice, so that no ring touches itself."""
    if len(set(corners)) == len(corners):
        return [corners]
    loops: list[list[int]] = []
    path: list[int] = []
    place: dict[int, int] = {}
    for corner in corners:
        if corner in place:
            cut = place[corner]
            loops.append(path[cut:])
            for passed in path[cut:]:
                del place[passed]
            del path[cut:]
        place[corner] = len(path)
        path.append(corner)
    loops.append(path)
    return loops
