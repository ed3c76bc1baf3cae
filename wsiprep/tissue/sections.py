"""Separate sections of one slide: pieces that belong together, and pieces that only touch.

Several sections of one block lie on a glass; some touch, and some are torn into fragments. What
tells the two apart is the neck: two sections meet in a place that is narrow against both of them,
whereas a crack leaves the halves facing each other along their whole width. So:

1. The distance of each pixel to the outline (holes filled) is flooded from its peaks downwards. A
   peak becomes a part of its own when the water has fallen to a share of its height without
   meeting a higher peak's: when every way out is narrower than that share of its own width. This
   is a watershed of the distance transform whose basins are merged by their dynamics (Grimaud,
   Proc. SPIE 1769, 1992), the dynamics taken relative to the peak, as sections come in all sizes.
   (SlideSegmenter parts sections by distances to centroids that a network predicts; no network
   here.)
2. The same is done after gaps that a disc of diameter `gap_um` does not fit into are closed, with
   a wider neck asked for: what is one part there is fragments of one section.
3. A part that is small beside the neighbour it touches is a lobe of it, and crumbs join the
   section they lie beside.

It knows shapes only. It does not look at the picture, so it cannot tell the matching halves of a
torn section from two sections whose straight sides lie closer than `gap_um`, nor that a thin
strand links two ends of one biopsy core rather than two cores, nor which fragments far apart were
once one piece. Sections that touch all around a gap pass for one with a hole. Gaps below some
32 µm are not seen. Where it errs, the number `section` of the outlines can be edited and given
back with `--mask`.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.tissue.regions import close, fill_holes, label

__all__ = ["boxes_of", "find_sections", "in_reading_order"]

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]

NECK = 0.35
"""What touches is joined by a neck at least this wide, relative to the narrower part's width."""
CRACK = 0.7
"""Fragments are joined across a gap whose closing leaves a neck at least this wide."""
OVERLAP = 0.3
"""Parts of the two floods are the same where they share this much of the smaller one's area."""
LOBE = 0.2
"""A part below this share of the area of the neighbour it touches is a lobe of it."""
CRUMB = 0.1
"""A piece below this share of the largest section's area is a crumb."""
CRUMB_REACH = 0.25
"""A crumb joins a section nearer than this share of the section's width, and than 1 mm."""
CRUMB_REACH_UM = 1000.0
BLOCK_UM = (16.0, 32.0)
"""Bounds of the side of the blocks on which the shapes are judged."""
STEP = 0.87
"""Ratio of two levels of the flood: necks are told apart to this precision."""


def find_sections(
    mask: Mask, mpp: tuple[float, float], *, gap_um: float, bridge: Mask | None = None
) -> Labels:
    """Number the sections of a tissue mask.

    Deterministic, and the same wherever the tissue lies in the image.

    Args:
        mask: bool (h, w), tissue.
        mpp: µm per mask pixel along x and y.
        gap_um: Width in µm of gaps across which fragments may be of one section.
        bridge: bool (h, w), what connects tissue without being tissue itself, as tissue that was
            excluded under ink; it gets no number.

    Returns:
        int32 (h, w): 0 outside `mask`, 1..n in it, ordered by centroids: rows of sections from
        the top, each from the left (`in_reading_order`).
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    whole = mask if bridge is None else mask | bridge
    rows, cols = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    side_um = float(np.sqrt(mpp[0] * mpp[1]))
    block = max(1, int(np.clip(gap_um / 8, *BLOCK_UM) / side_um))
    radius = gap_um / 2 / (side_um * block)
    margin = int(radius) + 2
    small = np.pad(_blocks(whole[box], block), margin)
    solid = fill_holes(small, None)
    distance = _distance(solid)
    parts = _flood(distance, NECK)
    if radius >= 1:
        closed = _distance(close(solid, radius))
        parts = _united(parts, _flood(closed, CRACK), small)
    parts = _with_lobes(parts, distance, small)
    parts = _with_crumbs(parts, distance, small, CRUMB_REACH_UM / (side_um * block))
    inner = np.where(_blocks(mask[box], block), parts[margin:-margin, margin:-margin], 0)
    inner = in_reading_order(inner.astype(np.int32))
    labels = np.zeros(mask.shape, np.int32)
    h, w = whole[box].shape
    labels[box] = inner.repeat(block, axis=0).repeat(block, axis=1)[:h, :w]
    labels[~mask] = 0
    return labels


def in_reading_order(labels: Labels) -> Labels:
    """The same pieces numbered 1..n: rows of pieces from the top, each from the left.

    A row goes on while the centroid of the next piece is less than half a median piece's height
    below that of the row's first.

    Args:
        labels: int32 (h, w), 0 outside.
    """
    rows, cols = np.nonzero(labels)
    if not len(rows):
        return labels
    own = labels[rows, cols]
    count = np.bincount(own)
    known = np.flatnonzero(count)
    y = np.bincount(own, rows)[known] / count[known]
    x = np.bincount(own, cols)[known] / count[known]
    step = 0.5 * float(np.median([r.stop - r.start for r, _ in boxes_of(labels).values()]))
    line = np.zeros(len(known), np.int64)
    top, current = -np.inf, -1
    for at in np.argsort(y, kind="stable").tolist():
        if y[at] - top >= step:
            top, current = y[at], current + 1
        line[at] = current
    number = np.zeros(len(count), np.int32)
    number[known[np.lexsort((x, line))]] = np.arange(1, len(known) + 1)
    return np.asarray(number[labels])


def boxes_of(labels: Labels) -> dict[int, tuple[slice, slice]]:
    """The rows and columns that each number spans, by number; 0 is left out."""
    wide = np.pad(labels, ((0, 0), (1, 1)))
    # Runs of one number along a row: their ends say all, and are few.
    rows, cols = np.nonzero(wide[:, 1:] != wide[:, :-1])
    left, right = wide[rows, cols], wide[rows, cols + 1]
    own = np.concatenate([left, right])
    rows = np.concatenate([rows, rows])[own > 0]
    cols = np.concatenate([cols - 1, cols])[own > 0]
    own = own[own > 0]
    if not len(own):
        return {}
    order = np.argsort(own, kind="stable")
    numbers, first = np.unique(own[order], return_index=True)
    rows, cols = rows[order], cols[order]
    bounds = (
        np.minimum.reduceat(rows, first),
        np.maximum.reduceat(rows, first) + 1,
        np.minimum.reduceat(cols, first),
        np.maximum.reduceat(cols, first) + 1,
    )
    return {
        int(number): (slice(int(r0), int(r1)), slice(int(c0), int(c1)))
        for number, r0, r1, c0, c1 in zip(numbers, *bounds, strict=True)
    }


def _blocks(mask: Mask, side: int) -> Mask:
    """Blocks of `side` x `side` pixels that hold any of the mask."""
    if side == 1:
        return mask
    h, w = mask.shape
    padded = np.pad(mask, ((0, -h % side), (0, -w % side)))
    rows, cols = padded.shape[0] // side, padded.shape[1] // side
    wide = padded.reshape(rows, side, cols * side).any(axis=1)  # rows first: they lie in a row
    return np.asarray(wide.reshape(rows, cols, side).any(axis=2))


def _distance(mask: Mask) -> NDArray[np.float32]:
    return np.asarray(
        cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    )


def _flood(distance: NDArray[np.float32], neck: float) -> Labels:
    """Parts of the area of positive distance, each around a peak that stands by itself."""
    height, parts = distance.ravel(), np.zeros(distance.size, np.int32)
    peaks = np.empty(0, np.int64)
    level = highest = float(distance.max())
    while True:
        level = level * STEP if level > 1 else 0.0
        if level > neck * highest:  # nothing stands by itself as yet
            continue
        inside = distance > level
        count, pieces = label(inside)
        piece = pieces.ravel()
        # A part always reaches down from its peak, so its peak tells which piece it lies in.
        where = piece[peaks]
        held = np.bincount(where, minlength=count)
        number = np.zeros(count, np.int32)
        number[where] = np.arange(1, len(where) + 1)
        number[held > 1] = 0
        fresh = np.flatnonzero(inside.ravel() & (parts == 0))
        own = piece[fresh]
        tops = _tops(fresh[(held == 0)[own]], piece, height)
        ripe = tops[level <= neck * height[tops]]
        number[piece[ripe]] = len(where) + 1 + np.arange(len(ripe))
        peaks = np.concatenate([peaks, ripe])
        parts[fresh] = number[own]
        between = fresh[(held > 1)[own]]
        if len(between):
            parts[between] = _nearest(parts.reshape(distance.shape), between)
        if level == 0.0:
            return parts.reshape(distance.shape)


def _tops(
    pixels: NDArray[np.int64], piece: Labels, height: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The highest of some pixels in each piece, the first of equals; by number of the piece."""
    own, high = piece[pixels], height[pixels]
    highest = np.zeros(int(own.max(initial=0)) + 1, np.float32)
    np.maximum.at(highest, own, high)
    top = np.flatnonzero(high == highest[own])
    return pixels[top[np.unique(own[top], return_index=True)[1]]]


def _united(parts: Labels, others: Labels, tissue: Mask) -> Labels:
    """Join parts that are one part in the other flood, but for slivers along borders."""
    a, b = parts[tissue].astype(np.int64), others[tissue].astype(np.int64)
    area_a, area_b = np.bincount(a), np.bincount(b)
    pair, shared = np.unique(a * len(area_b) + b, return_counts=True)
    one, two = np.divmod(pair, len(area_b))
    same = shared >= OVERLAP * np.minimum(area_a[one], area_b[two])
    root = list(range(len(area_a) + len(area_b)))

    def find(at: int) -> int:
        while root[at] != at:
            root[at] = at = root[root[at]]
        return at

    for p, q in zip(one[same].tolist(), (two[same] + len(area_a)).tolist(), strict=True):
        low, high = sorted((find(p), find(q)))
        root[high] = low
    return np.asarray(np.array([find(p) for p in range(int(parts.max()) + 1)], np.int32)[parts])


def _nearest(labels: Labels, pixels: NDArray[np.int64]) -> Labels:
    """The number of the labelled pixel that is nearest to each of `pixels`, as of a flat array."""
    _, sites = cv2.distanceTransformWithLabels(
        (labels == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    site, known = sites.ravel(), np.flatnonzero(labels)
    number = np.zeros(len(known) + 1, np.int32)  # each labelled pixel is a site
    number[site[known]] = labels.ravel()[known]
    return np.asarray(number[site[pixels]])


def _with_lobes(parts: Labels, distance: NDArray[np.float32], tissue: Mask) -> Labels:
    """Join parts to a much larger neighbour, the smallest first, across the widest neck."""
    area = np.bincount(parts[tissue], minlength=int(parts.max()) + 1)
    necks: dict[int, dict[int, float]] = {}
    h, w = parts.shape
    for dr, dc in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = np.s_[: h - dr, max(0, -dc) : w - max(0, dc)]
        there = np.s_[dr:, max(0, dc) : w + min(0, dc)]
        a, b = parts[here], parts[there]
        meet = (a != b) & (a > 0) & (b > 0)
        width = np.minimum(distance[here], distance[there])[meet]
        for one, two, wide in zip(a[meet].tolist(), b[meet].tolist(), width.tolist(), strict=True):
            for p, q in ((one, two), (two, one)):
                known = necks.setdefault(p, {})
                known[q] = max(known.get(q, 0.0), wide)
    host = np.arange(len(area), dtype=np.int32)
    waiting = set(necks)
    while waiting:
        part = min(waiting, key=lambda p: (int(area[p]), p))
        waiting.discard(part)
        if not necks[part]:
            continue
        other = max(necks[part], key=lambda q: (necks[part][q], int(area[q]), -q))
        if area[part] >= LOBE * area[other]:
            continue
        host[host == part] = other
        area[other] += area[part]
        for third, wide in necks.pop(part).items():
            del necks[third][part]
            if third != other:
                for p, q in ((third, other), (other, third)):
                    necks[p][q] = max(necks[p].get(q, 0.0), wide)
    return np.asarray(host[parts])


def _with_crumbs(
    parts: Labels, distance: NDArray[np.float32], tissue: Mask, reach_px: float
) -> Labels:
    """Join small pieces to the section that they lie beside."""
    count = int(parts.max()) + 1
    area = np.bincount(parts[tissue], minlength=count)
    large = area >= CRUMB * area[1:].max()
    large[0] = False
    crumb = (area > 0) & ~large
    crumb[0] = False
    if not crumb.any():
        return parts
    width = np.zeros(count, np.float32)
    np.maximum.at(width, parts.ravel(), distance.ravel())
    hosts = np.where(large[parts], parts, 0).astype(np.int32)
    far = _distance(hosts == 0)
    # The pixel of a crumb that lies nearest to a large section speaks for the whole crumb.
    pixels = np.flatnonzero(crumb[parts])
    own, gap, near = parts.ravel()[pixels], far.ravel()[pixels], _nearest(hosts, pixels)
    order = np.lexsort((near, gap, own))
    numbers, first = np.unique(own[order], return_index=True)
    host = np.arange(count, dtype=np.int32)
    for number, at in zip(numbers.tolist(), order[first].tolist(), strict=True):
        section = int(near[at])
        if gap[at] <= min(CRUMB_REACH * 2 * float(width[section]), reach_px):
            host[number] = section
    return np.asarray(host[parts])
