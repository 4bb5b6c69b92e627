"""Two files of results, one JSON object a line, hold the same masks: compare.py ONE TWO [--in-order] [--rounding]

Results are paired by the digest of their input (copies count once), or with --in-order by their place, when one
image went through two encodings. --rounding is for two kinds of processor: the last bit of a sum decides how an int8
activation rounds, so boundary pixels may move: a Dice of 0.995 over all images, as between tract and ONNX Runtime, and
0.99 of each, as in a bundle's own self-test. Every mask is decoded with pycocotools, and area and box have to be those of the
decoded mask. Exits with 1 on a difference beyond that and says how many pixels differ. Needs numpy and pycocotools.
"""

import json
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

ROUNDING_MIN_DICE = 0.995
ROUNDING_MIN_DICE_IMAGE = 0.99


def decoded(result: dict) -> dict[tuple, np.ndarray]:
    """(frame, label) -> mask."""
    if not result["schema"].startswith("result/"):
        sys.exit(f"not a result: {json.dumps(result)}")
    masks = {}
    for instance in result["instances"]:
        rle = instance["mask"]
        name = (instance["frame"], instance["label"])
        expected = [result["image"]["rows"], result["image"]["cols"]]
        if rle["size"] != expected:
            sys.exit(f"{name}: mask of {rle['size']}, image of {expected}")
        mask = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})
        box = [int(side) for side in coco.toBbox(coco.encode(np.asfortranarray(mask)))]
        if int(mask.sum()) != instance["area_px"] or box != instance["bbox"]:
            sys.exit(f"{name}: area or box is not that of the mask: {instance}, {int(mask.sum())} px, {box}")
        masks[name] = mask
    return masks


def read(path: str, in_order: bool) -> dict:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    return {
        index if in_order else result.get("image", {}).get("sha256"): decoded(result)
        for index, result in enumerate(lines)
    }


def main() -> int:
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    one, two = (read(path, "--in-order" in sys.argv) for path in paths)
    if one.keys() != two.keys() or not one:
        print(f"DIFFER: {len(one)} and {len(two)} results, {len(one.keys() & two.keys())} of the same images")
        return 1
    worst, n_pixels, n_both, n_different = 1.0, 0, 0, 0
    for key in one:
        for name in one[key].keys() | two[key].keys():
            masks = [result[key].get(name) for result in (one, two)]
            here, there = (np.zeros_like(next(m for m in masks if m is not None)) if mask is None else mask
                           for mask in masks)
            different = int((here != there).sum())
            total = int(here.sum()) + int(there.sum())
            n_different += different
            n_pixels += int(here.sum())
            n_both += total
            worst = min(worst, (total - different) / total if total else 1.0)
    pooled = 1.0 - n_different / n_both if n_both else 1.0
    rounding = pooled >= ROUNDING_MIN_DICE and worst >= ROUNDING_MIN_DICE_IMAGE
    same = n_different == 0 or ("--rounding" in sys.argv and rounding)
    word = "DIFFER" if not same else "same masks" if n_different == 0 else "same masks but for rounding"
    print(f"{word}: {len(one)} images, {n_pixels} px foreground, {n_different} px differ, Dice {pooled:.5f}, worst {worst:.5f}")
    if n_pixels == 0:
        print("no foreground anywhere: this compares nothing")
        return 1
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
