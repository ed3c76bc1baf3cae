"""Real thumbnails and tables of them, made for tests."""

import csv
import json

import cv2
import numpy as np


def pictures(folder, side=90):
    """A blue thumbnail with a tissue mask of its left half, and ink on a few rows."""
    image = np.full((side, side, 3), 240, np.uint8)
    image[:, : side // 2] = (160, 90, 200)
    tissue = np.zeros((side, side), np.uint8)
    tissue[:, : side // 2] = 255
    pen = np.zeros((side, side), np.uint8)
    pen[10:20] = 255
    for name, array in (("a.png", image), ("t.png", tissue), ("p.png", pen)):
        cv2.imwrite(str(folder / name), array)


def table(folder, *rows):
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
        out.writeheader()
        out.writerows(rows)
    return path


def outlined(path, **boxes):
    """Outlines as QuPath exports them: a class, and the columns from and to which it reaches."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[a, 0], [b, 0], [b, 90], [a, 90], [a, 0]]],
            },
            "properties": {"classification": {"name": name}},
        }
        for name, (a, b) in boxes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
