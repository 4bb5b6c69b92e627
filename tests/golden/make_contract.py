"""Writes contract.json beside this file: masks and their run lengths as pycocotools encodes them.
Run with `python3 make_contract.py` where numpy and pycocotools are installed."""
import json
import pathlib

import numpy as np
from pycocotools import mask as coco

rng = np.random.default_rng(7)


def blob(rows, cols):
    y, x = np.mgrid[:rows, :cols]
    return (((y - rows / 2) / (rows / 3)) ** 2 + ((x - cols / 2) / (cols / 4)) ** 2 < 1).astype(np.uint8)


MASKS = {
    "empty": np.zeros((5, 7), np.uint8),
    "full": np.ones((4, 3), np.uint8),
    "row": np.array([[0, 1, 1, 0, 1]], np.uint8),
    "column": np.array([[1], [0], [0], [1]], np.uint8),
    "noise": (rng.random((13, 9)) < 0.4).astype(np.uint8),
    "blob": blob(200, 150),
}

cases = []
for name, mask in MASKS.items():
    rle = coco.encode(np.asfortranarray(mask))
    cases.append({
        "name": name,
        "size": list(mask.shape),
        "ones": np.flatnonzero(mask.ravel()).tolist() if mask.sum() < 200 else None,
        "counts": rle["counts"].decode(),
        "area": int(coco.area(rle)),
        "bbox": [int(v) for v in coco.toBbox(rle)],
    })
path = pathlib.Path(__file__).with_name("contract.json")
path.write_text(json.dumps(cases, indent=1) + "\n")
