"""Makes tests/golden/contract/*.json: what pycocotools, Pillow and numpy answer on small, awkward inputs.

Run: python make_contract.py (numpy, pillow, pycocotools). Deterministic; the crate `contract` checks itself
against the files in its unit tests.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import pycocotools.mask
from PIL import Image

HERE = Path(__file__).parent / "contract"


def write(name, cases):
    versions = {"numpy": np.__version__, "pillow": PIL.__version__}
    text = json.dumps({"made_with": versions, "cases": cases}, separators=(",", ":"))
    (HERE / name).write_text(text.replace("},{", "},\n{") + "\n")


def masks(rng):
    """Name and array of class ids (rows, cols)."""
    disc = np.add.outer((np.arange(40) - 19.2) ** 2, (np.arange(37) - 15.0) ** 2) < 150
    ring = disc.astype(np.uint8)
    ring[np.add.outer((np.arange(40) - 19.2) ** 2, (np.arange(37) - 15.0) ** 2) < 60] = 2
    yield "disc and ring", ring
    yield "empty", np.zeros((7, 5), np.uint8)
    yield "full", np.ones((7, 5), np.uint8)
    yield "one pixel", np.ones((1, 1), np.uint8)
    yield "one pixel, empty", np.zeros((1, 1), np.uint8)
    yield "row", np.array([[0, 1, 1, 0, 2, 1, 0, 0, 1]], np.uint8)
    yield "column", np.array([[1, 0, 0, 1, 1, 1, 2, 0, 1]], np.uint8).T
    yield "noise", rng.integers(0, 3, (13, 17)).astype(np.uint8)
    yield "checkers", (np.indices((8, 9)).sum(0) % 2).astype(np.uint8)
    large = np.zeros((300, 250), np.uint8)
    large[3:290, 5:240] = 1
    large[100, 100] = 0
    yield "long runs", large
    corner = np.zeros((6, 8), np.uint8)
    corner[0, 0] = corner[5, 7] = 1
    yield "corners", corner


def runs_of_rows(mask):
    """Row-major [class, length] pairs: keeps the files small."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    return [[int(flat[a]), int(b - a)] for a, b in zip(starts[:-1], starts[1:])]


def make_masks():
    cases = []
    for name, mask in masks(np.random.default_rng(1)):
        for class_id in (1, 2):
            binary = np.asfortranarray(mask == class_id).astype(np.uint8, order="F")
            rle = pycocotools.mask.encode(binary)
            area = int(pycocotools.mask.area(rle))
            box = [int(v) for v in pycocotools.mask.toBbox(rle)] if area else None
            cases.append({
                "name": name, "class": class_id, "rows": mask.shape[0], "cols": mask.shape[1],
                "runs": runs_of_rows(mask), "counts": rle["counts"].decode(), "area": area, "box": box,
            })
    write("masks.json", cases)


def make_resample():
    rng = np.random.default_rng(2)
    sizes = [((5, 7), (5, 7)), ((5, 7), (11, 3)), ((1, 9), (4, 4)), ((9, 1), (4, 4)), ((1, 1), (3, 2)),
             ((24, 20), (7, 20)), ((24, 20), (24, 33)), ((31, 17), (1, 1)), ((13, 29), (16, 16)), ((3, 200), (5, 7)),
             ((40, 40), (9, 13))]
    cases = []
    for (rows, cols), (to_rows, to_cols) in sizes:
        for channels in (1, 3) if rows * cols < 50 else (1,):
            shape = (rows, cols) if channels == 1 else (rows, cols, 3)
            data = rng.integers(0, 256, shape).astype(np.uint8)
            data[rng.random(shape) < 0.2] = 255
            picture = Image.fromarray(data)
            size = (to_cols, to_rows)
            case = {
                "channels": channels, "rows": rows, "cols": cols, "to": [to_rows, to_cols],
                "data": data.ravel().tolist(),
                "bilinear_u8": np.asarray(picture.resize(size, Image.BILINEAR)).ravel().tolist(),
            }
            if channels == 1:
                smooth = np.asarray(Image.fromarray(data.astype(np.float32)).resize(size, Image.BILINEAR))
                case["bilinear"] = [round(float(v), 4) for v in smooth.ravel()]
                case["nearest"] = np.asarray(picture.resize(size, Image.NEAREST)).ravel().tolist()
            cases.append(case)
    write("resample.json", cases)


def make_nearest():
    """Source indices alone, for many pairs of sides: where does Pillow put exact ties?"""
    cases = []
    for native, side in [(3, 1024), (7, 64), (64, 7), (100, 48), (77, 31), (384, 1024), (1000, 333), (255, 256), (6, 4)]:
        ramp = np.arange(native, dtype=np.int32)[None]
        index = np.asarray(Image.fromarray(ramp).resize((side, 1), Image.NEAREST)).ravel()
        cases.append({"from": native, "to": side, "index": index.tolist()})
    write("nearest.json", cases)


def make_percentile():
    rng = np.random.default_rng(3)
    cases = []
    for count, low, high in [(1, 0.5, 99.5), (2, 0.5, 99.5), (5, 25, 75), (200, 0.5, 99.5), (333, 1, 99), (97, 0, 100)]:
        data = np.round(rng.normal(300, 200, count), 2).astype(np.float32)
        ends = np.percentile(data.astype(np.float64), [low, high])
        cases.append({"data": [float(v) for v in data], "low": low, "high": high, "ends": ends.tolist()})
    write("percentile.json", cases)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    make_masks()
    make_resample()
    make_nearest()
    make_percentile()
