"""Two files of results, one JSON object a line, hold the same masks: compare.py ONE TWO [--in-order] [--dice=LEAST]

Results are paired by the digest of their input (copies count once), or with --in-order by their place, when one
image went through two encodings. Every mask is decoded with pycocotools, and area and box have to be those of the
decoded mask. Exits with 1 where a mask has a Dice below LEAST, 1 unless said, and says how many pixels differ. Needs
numpy and pycocotools.
"""

import json
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as coco


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
    least = [float(argument.removeprefix("--dice=")) for argument in sys.argv if argument.startswith("--dice=")]
    one, two = (read(path, "--in-order" in sys.argv) for path in paths)
    if one.keys() != two.keys() or not one:
        print(f"DIFFER: {len(one)} and {len(two)} results, {len(one.keys() & two.keys())} of the same images")
        return 1
    worst, n_pixels, n_different = 1.0, 0, 0
    for key in one:
        for name in one[key].keys() | two[key].keys():
            masks = [result[key].get(name) for result in (one, two)]
            here, there = (np.zeros_like(next(m for m in masks if m is not None)) if mask is None else mask
                           for mask in masks)
            different = int((here != there).sum())
            total = int(here.sum()) + int(there.sum())
            n_different += different
            n_pixels += int(here.sum())
            worst = min(worst, (total - different) / total if total else 1.0)
    enough = worst >= min(least, default=1.0)
    word = ("nearly the same masks" if n_different else "same masks") if enough else "DIFFER"
    print(f"{word}: {len(one)} images, {n_pixels} px foreground, {n_different} px differ, worst Dice {worst:.5f}")
    if n_pixels == 0:
        print("no foreground anywhere: this compares nothing")
        return 1
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
