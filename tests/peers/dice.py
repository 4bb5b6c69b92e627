"""Masks that were received have the Dice that the bundle's manifest names: dice.py RESULTS.jsonl LIST.csv SPLIT BUNDLE

RESULTS has one result a line, as `mosquitto_sub` or `scansided segment` print them; a result belongs to the image
with its SHA-256. All masks together are held against the grey value 1. Every labelled image of SPLIT has to be there.
Exits with 1 when a figure differs from the manifest's by more than 0.0005. Needs numpy, pillow and pycocotools.
"""

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco


def main() -> int:
    results_path, list_path, split, bundle = sys.argv[1:]
    manifest = json.loads((Path(bundle) / "manifest.json").read_text())
    results = {}
    for line in Path(results_path).read_text().splitlines():
        result = json.loads(line)
        results[result["image"]["sha256"]] = result
    folder = Path(list_path).parent
    per_image, overlap, area, missing = [], 0, 0, []
    with open(list_path, newline="") as rows:
        for row in csv.DictReader(rows):
            if row["split"] != split:
                continue
            image = folder / row["image"]
            result = results.get(hashlib.sha256(image.read_bytes()).hexdigest())
            if result is None:
                missing.append(image)
                continue
            truth = np.asarray(Image.open(folder / row["labels"])) == 1
            found = np.zeros_like(truth)
            for instance in result["instances"]:
                rle = instance["mask"]
                found |= coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)
            both, either = int((truth & found).sum()), int(truth.sum() + found.sum())
            overlap += both
            area += either
            if either:
                per_image.append(2 * both / either)
    for image in missing:
        print(f"no result for {image}")
    if missing or not per_image:
        return 1
    figures = {"per image": sum(per_image) / len(per_image), "pooled": 2 * overlap / area}
    named = {kind: manifest["provenance"]["dice"][f"{split} {manifest['precision']} {kind}"] for kind in figures}
    words = ", ".join(f"{figures[kind]:.4f} {kind} (manifest: {named[kind]:.4f})" for kind in figures)
    print(f"{split}: {len(per_image)} images, foreground Dice {words}")
    return 1 if any(abs(figures[kind] - named[kind]) > 0.0005 for kind in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
