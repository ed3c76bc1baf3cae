"""Thumbnails drawn for tests: glass, tissue, fat, pen, borders, at 8 µm/px, with their truth."""

from __future__ import annotations

import cv2
import numpy as np

MPP = 8.0
PENS = {
    "red": (200, 25, 50),
    "green": (40, 150, 110),
    "blue": (35, 55, 160),
    "black": (40, 38, 42),
}
GLASS = (241, 240, 242)
EOSIN = (212, 140, 180)
FAINT = (232, 216, 228)
BROWN = (165, 125, 95)
COUNTERSTAIN = (190, 196, 216)


def texture(shape, seed, sigma=2.0):
    """Smooth noise of unit variance."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    return noise / noise.std()


def glass(h=500, w=700, rgb=GLASS, noise=1.2, seed=1):
    image = np.empty((h, w, 3), np.float32)
    image[:] = rgb
    return image + np.random.default_rng(seed).normal(scale=noise, size=image.shape)


def ellipse(shape, centre=(0.5, 0.5), axes=(0.3, 0.3)):
    """bool mask of an ellipse, placed in shares of the image."""
    h, w = shape
    mask = np.zeros(shape, np.uint8)
    at = (round(centre[0] * w), round(centre[1] * h))
    cv2.ellipse(mask, at, (round(axes[0] * w), round(axes[1] * h)), 15, 0, 360, 1, -1)
    return mask > 0


def stain(image, mask, rgb=EOSIN, depth=0.18, seed=2):
    """Colour the mask; the amount of dye varies, the hue does not (Beer and Lambert)."""
    amount = 1 + depth * texture(mask.shape, seed)[..., None]
    density = -np.log(np.asarray(rgb, np.float32) / 242.0)
    tissue = image * np.exp(-density * np.clip(amount, 0.2, 2.5))
    image[mask] = tissue[mask]


def stroke(image, points, pen, width=30):
    """Draw a pen stroke; returns where. Ink over tissue absorbs on top of it."""
    h, w = image.shape[:2]
    ink = np.zeros((h, w), np.uint8)
    xy = (np.asarray(points) * [w, h]).round().astype(np.int32)
    cv2.polylines(ink, [xy], isClosed=False, color=255, thickness=width, lineType=cv2.LINE_AA)
    share = (ink / 255.0)[..., None]
    image *= 1 - share * (1 - np.asarray(PENS[pen], np.float32) / 242.0)
    return ink > 127


def fat(image, mask, cell_px=11, seed=3):
    """Adipose tissue: thin pink septa around glass."""
    h, w = mask.shape
    rng = np.random.default_rng(seed)
    subdiv = cv2.Subdiv2D((0, 0, w, h))
    for y in range(0, h, cell_px):
        for x in range(0, w, cell_px):
            jitter = rng.uniform(0, 0.9 * cell_px, 2)
            at = np.minimum([x + jitter[0], y + jitter[1]], [w - 1, h - 1])
            subdiv.insert((float(at[0]), float(at[1])))
    lines = np.zeros((h, w), np.uint8)
    for cell in subdiv.getVoronoiFacetList([])[0]:
        cv2.polylines(lines, [np.rint(cell).astype(np.int32)], True, 255, 1)
    image[(lines > 0) & mask] = (205, 150, 186)


def finish(image, jpeg=88):
    """Round to bytes, and through JPEG as scanners do."""
    rgb = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def iou(a, b):
    return float((a & b).sum() / (a | b).sum())


def recall(found, truth):
    return float((found & truth).sum() / truth.sum())


def plain_otsu(rgb):
    """What is tissue to a threshold on brightness alone."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1] > 0
