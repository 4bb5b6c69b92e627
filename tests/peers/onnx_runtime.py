"""A bundle's graph in ONNX Runtime against what tract made of the same inputs.

    trainer bundle dump BUNDLE DUMP [IMAGES...]
    python tests/peers/onnx_runtime.py BUNDLE DUMP [MIN_DICE]

Runs the ONNX checker, then every DUMP/N.input.f32. An f32 graph passes when no logit differs by more
than 1e-3; an int8 graph when the foreground masks of all inputs together have a Dice of MIN_DICE or more,
0.995 unless given: the last bit of a sum decides how an activation rounds, so int8 logits differ between
runtimes by about as much as they differ from f32. Exits with 1 on a mismatch, 2 when there is nothing to
compare. Needs onnx, onnxruntime and numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

LOGIT_TOLERANCE = 1e-3
MASK_DICE = 0.995


def main() -> int:
    bundle, dump = map(Path, sys.argv[1:3])
    min_dice = float(sys.argv[3]) if len(sys.argv) > 3 else MASK_DICE
    manifest = json.loads((bundle / "manifest.json").read_text())
    kind = manifest["kind"]["automatic"]
    model = bundle / kind["graph"]
    onnx.checker.check_model(str(model), full_check=True)
    domains = {node.domain for node in onnx.load(model).graph.node}
    if domains - {"", "ai.onnx"}:
        print(f"{model}: operators of {domains} are not standard ONNX")
        return 1
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    worst, overlap, area, scale, count = 0.0, 0, 0, 0.0, 0
    for path in sorted(dump.glob("*.input.f32")):
        image = np.fromfile(path, "<f4").reshape(shape)
        ours = session.run([kind["output"]], {kind["input"]: image})[0]
        theirs = np.fromfile(str(path).replace(".input.", ".logits."), "<f4").reshape(ours.shape)
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            print(f"{path}: logits are not finite")
            return 1
        worst = max(worst, float(np.abs(ours - theirs).max()))
        scale = max(scale, float(np.abs(ours).max()))
        one, two = ours.argmax(1), theirs.argmax(1)
        overlap += int(((one == two) & (one > 0)).sum())
        area += int((one > 0).sum() + (two > 0).sum())
        count += 1
    if count == 0:
        print(f"{dump}: no N.input.f32: run `trainer bundle dump` first")
        return 2
    dice = 2 * overlap / area if area else 1.0
    passed = worst <= LOGIT_TOLERANCE if manifest["precision"] == "f32" else dice >= min_dice
    print(
        f"{'agree' if passed else 'DIFFER'}: {manifest['precision']}, {count} inputs, checker passed, "
        f"logits differ by at most {worst:.2e} (largest {scale:.3g}), "
        f"foreground {area // 2} px, Dice {dice:.5f}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
