"""From a scene to a thumbnail."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiprep.synth.stain import StainPair, transmit
from wsiprep.synth.texture import F32, as_float, smoothstep
from wsiprep.synth.thumbnails import marks
from wsiprep.synth.thumbnails.ink import ink_density
from wsiprep.synth.thumbnails.labels import CLASSES, Thumbnail
from wsiprep.synth.thumbnails.layouts import LAYOUTS
from wsiprep.synth.thumbnails.noise import field, grains, strongest
from wsiprep.synth.thumbnails.scene import Scene
from wsiprep.synth.thumbnails.tissue import amounts, fat_amounts, fat_parts, hole_parts

__all__ = ["draw_scene"]

Rng = np.random.Generator
Shape = tuple[int, int]
TISSUE, PEN, EDGE, FOLD = (1 << k for k in range(len(CLASSES)))

PEN_DENSITY = 0.12
"""Ink of less optical density than this in every colour is a stain, not a stroke."""
HALF_TISSUE = (0.25, 0.75)
"""Where tissue covers between these shares of what a pixel sees, nobody asks if it is tissue."""
APERTURE_PX = 0.7
"""Standard deviation of what a pixel sees at least: its own area, resampling, JPEG."""
USUAL, DARKEST = 0.3, 1.1
"""Optical density of tissue, on average in its strongest colour; and the most that there is."""
INVISIBLE, SIGHT_PX = 0.03, 3.0
"""Tissue of less density than this round about cannot be told from glass, nor is asked for."""
OPAQUE_COVER = 0.25
"""Where ink covers more than this, whether tissue lies under it is not asked for."""


def draw_scene(
    scene: Scene, shape: Shape = (512, 512), real: Sequence[NDArray[np.uint8]] = ()
) -> Thumbnail:
    """Draw a scene; the same scene and pictures give the same thumbnail.

    Args:
        scene: What to draw.
        shape: (h, w) in pixels.
        real: uint8 (h, w, 3) RGB pictures of tissue and nothing else, whose colours are used for
            a share of the tissue where the scene asks for it.
    """
    rng = np.random.default_rng([scene.seed, 11])
    inside = LAYOUTS[scene.layout].place(rng, shape, scene.share)
    hole = hole_parts(rng, scene, shape)
    covered = as_float(np.minimum(inside, -hole))
    half = scene.softness_px / 2
    cover = smoothstep(-half, half, covered)
    blur_px = float(rng.uniform(0.3, 1.1)) if rng.random() < 0.6 else 0.0
    part = cv2.GaussianBlur(cover, (0, 0), max(blur_px, APERTURE_PX))
    label = np.where(part > 0.5, np.uint8(TISSUE), np.uint8(0))
    known = np.full(shape, 0xFF, np.uint8)
    known[(part > HALF_TISSUE[0]) & (part < HALF_TISSUE[1])] &= ~np.uint8(TISSUE)

    density = _stained(_tissue_density(rng, scene, shape, real), cover, scene.strength)
    density *= cover[..., None]
    seen = cv2.GaussianBlur(strongest(density), (0, 0), SIGHT_PX)
    known[(cover > 0.5) & (seen < INVISIBLE)] &= ~np.uint8(TISSUE)
    for _ in range(scene.folds):
        band = marks.fold(rng, shape) * cover
        density *= 1 + np.float32(rng.uniform(0.6, 1.6)) * band[..., None]
        label[(band > 0.5) & (label > 0)] |= FOLD
    density = _lay_marks(rng, scene, shape, density, label)
    for _ in range(scene.inks):
        ink, over = ink_density(rng, shape, covered, scene.mpp)
        density += ink
        label[strongest(ink) > PEN_DENSITY] |= PEN
        known[over > OPAQUE_COVER] &= ~np.uint8(TISSUE | FOLD | EDGE)
    light = transmit(_glass(rng, shape), as_float(density))
    pixels = _camera(rng, scene, light, blur_px, label, known)
    return Thumbnail(pixels, label, known, scene.mpp)


def _tissue_density(rng: Rng, scene: Scene, shape: Shape, real: Sequence[NDArray[np.uint8]]) -> F32:
    """Optical density of tissue everywhere, float32 (h, w, 3)."""
    stain = scene.dyes
    nuclear, counter = amounts(rng, scene, shape, stain.amount)
    vectors = []
    for dye in (stain.nuclear, stain.counter):
        varied = np.array(dye)
        if stain.any_colour:
            varied = varied * rng.uniform(0.05, 1, 3) ** rng.uniform(0.3, 1.5)
        varied = varied * np.exp(rng.normal(0, 0.10, 3))
        vectors.append(varied.mean() + (varied - varied.mean()) * scene.colourfulness)
    first, second = (tuple(float(x) for x in np.clip(v, 0.01, None)) for v in vectors)
    pair = StainPair((first[0], first[1], first[2]), (second[0], second[1], second[2]))
    density = pair.density(nuclear, counter)
    if scene.real and real:
        photo = _photo_density(rng, shape, real[int(rng.integers(len(real)))])
        where = smoothstep(-0.2, 0.2, as_float(field(rng, shape, 0.5 * min(shape)) + (
            4 * scene.real - 2
        )))  # fmt: skip
        density += where[..., None] * (photo - density)
    fat = fat_parts(rng, scene, shape)
    if fat.any():
        pale = fat_amounts(rng, scene, shape, counter)
        pale_density = pair.density(as_float(0.15 * pale), pale)
        density += fat[..., None] * (pale_density - density)
    return as_float(density)


def _stained(density: F32, cover: F32, strength: float) -> F32:
    """Densities as thumbnails show them: as dark as the slide is on average, and never black."""
    there = density[cover > 0.5]
    if len(there):
        usual = np.float32(USUAL * strength) / (strongest(there).mean() + np.float32(1e-6))
        density = density * usual
    return as_float(np.float32(DARKEST) * np.tanh(density / np.float32(DARKEST)))


def _photo_density(rng: Rng, shape: Shape, photo: NDArray[np.uint8]) -> F32:
    """A picture of tissue as densities: turned, scaled and mirrored on beyond its border."""
    scale = float(np.exp(rng.uniform(np.log(0.7), np.log(2.2))))
    turn = float(rng.uniform(0, 360))
    h, w = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), turn, 1 / scale)
    matrix = np.asarray(matrix, np.float64)
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-0.5, 0.5, 2) * (w, h)
    seen = cv2.warpAffine(
        photo, matrix, (shape[1], shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    tint = np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
    light = np.minimum((seen.astype(np.float32) + 1) / np.float32(246), 1)
    return as_float(-np.log10(light) * tint)


def _lay_marks(rng: Rng, scene: Scene, shape: Shape, density: F32, label: NDArray[np.uint8]) -> F32:
    """Edges, bubbles, dust, residue and haze, over glass and tissue; marks them in `label`."""
    drawn = [marks.coverslip_edge(rng, shape) for _ in range(scene.edges)]
    drawn += [marks.bubble(rng, shape) for _ in range(scene.bubbles)]
    for grey, there in drawn:
        density = as_float(density + grey[..., None])
        label[there > 0.5] |= EDGE
    if scene.dust:
        specks, there = marks.dust(rng, shape, scene.dust)
        density = as_float(density + specks)
        label[there > 0.5] |= EDGE
    if rng.random() < 0.2:
        density = as_float(density + marks.smear(rng, shape)[..., None])
    if rng.random() < 0.5:
        density = as_float(density + marks.haze(rng, shape))
    if rng.random() < 0.15:
        density = as_float(density + marks.drops(rng, shape)[..., None])
    return density


def _glass(rng: Rng, shape: Shape) -> F32:
    """Light through bare glass: its tint, shading, seams between strips of the scan."""
    h, w = shape
    white = rng.uniform(212, 254) * np.exp(rng.normal(0, 0.012, 3))
    ys = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    xs = np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    shade = 1 + np.float32(rng.normal(0, 0.012)) * xs + np.float32(rng.normal(0, 0.012)) * ys
    if rng.random() < 0.4:
        shade -= np.float32(rng.uniform(0, 0.10)) * (xs * xs + ys * ys) / 2
    if rng.random() < 0.25:  # strips or tiles that were lit differently
        for axis, count in ((0, h), (1, w)):
            pitch = int(rng.integers(12, 120))
            steps = 1 + rng.normal(0, 0.008, count // pitch + 1)
            seam = np.repeat(steps, pitch)[:count].astype(np.float32)
            shade = shade * (seam[:, None] if axis == 0 else seam[None, :])
    return as_float(shade[..., None] * white.astype(np.float32))


def _camera(
    rng: Rng, scene: Scene, light: F32, blur_px: float,
    label: NDArray[np.uint8], known: NDArray[np.uint8],
) -> NDArray[np.uint8]:  # fmt: skip
    """White balance, blur, noise, frame and JPEG."""
    light = light * np.exp(rng.normal(0, 0.02, 3)).astype(np.float32)
    if rng.random() < 0.1:  # a cast
        light = light * np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    gamma = np.float32(np.exp(rng.normal(0, 0.08)))
    light = np.float32(255) * (np.clip(light, 0, 255) / np.float32(255)) ** gamma
    if blur_px:
        light = as_float(cv2.GaussianBlur(light, (0, 0), blur_px))
    noise = float(np.exp(rng.uniform(np.log(0.2), np.log(4.0))))
    light = light + np.float32(noise) * np.stack([grains(rng, light.shape[:2]) for _ in "rgb"], -1)
    if rng.random() < 0.08:  # background that a scanner has painted white
        blank = cv2.erode((label == 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        light[blank] = 255
    if scene.border:
        _frame(rng, light, label, known)
    pixels = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    if rng.random() < 0.8:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 97))]
        done, data = cv2.imencode(".jpg", pixels[..., ::-1], quality)
        if not done:
            raise ValueError("a thumbnail could not be encoded")
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        pixels = np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1])
    return pixels


def _frame(rng: Rng, light: F32, label: NDArray[np.uint8], known: NDArray[np.uint8]) -> None:
    """What was not scanned: black or white at some sides, with a straight border."""
    h, w = light.shape[:2]
    shade = float(rng.choice([0, 0, 8, 20, 255]))
    outside = np.zeros((h, w), np.bool_)
    for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
        depth = int(rng.uniform(0.01, 0.18) * (h if side < 2 else w))
        rows = (slice(0, depth), slice(h - depth, h), slice(None), slice(None))[side]
        cols = (slice(None), slice(None), slice(0, depth), slice(w - depth, w))[side]
        if depth:
            outside[rows, cols] = True
    light[outside] = shade
    label[outside] = 0
    known[outside] &= ~np.uint8(EDGE)
