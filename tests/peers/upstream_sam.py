"""Upstream's segment_anything with weights that are filled by rule: upstream_sam.py vit_b|vit_l|vit_h [--save FILE]

Prints numbers of one forward pass of the encoder at 1024 px and of the mask decoder without prompt, as one JSON object
for tests/golden/stock_forward.json. With --save it writes such a checkpoint as the official ones are, instead.
Not part of CI: needs torch and segment-anything (PyPI); vit_h takes 11 GB.
"""

import json
import resource
import sys
import time
import zlib

import numpy as np
import torch
from segment_anything import sam_model_registry


def noise(name: str, n: int) -> np.ndarray:
    """-0.5..0.5 from a name and a place, as in tests/reference/full_size.rs."""
    shift = (zlib.crc32(name.encode()) * 0x9E3779B9) % 2**32
    x = np.arange(n, dtype=np.uint32) + np.uint32(shift)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x / 2**32 - 0.5


def filled(name: str, shape: tuple) -> torch.Tensor:
    u = noise(name, int(np.prod(shape)))
    if len(shape) == 1 and name.endswith(".weight"):
        u = 1 + 0.2 * u
    elif len(shape) <= 1:
        u = 0.2 * u
    else:
        u = 2 * u / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def image() -> torch.Tensor:
    c, y, x = np.meshgrid(np.arange(3), np.arange(1024), np.arange(1024), indexing="ij")
    pixels = np.sin(0.005 * (x + 1) * (c + 1)) + np.cos(0.013 * (y + 1))
    pixels += noise("input", pixels.size).reshape(pixels.shape)
    return torch.from_numpy(pixels.astype(np.float32))[None]


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(2)
    sam = sam_model_registry[sys.argv[1]]().eval()
    for name, tensor in sam.state_dict().items():
        tensor.copy_(filled(name, tuple(tensor.shape)))
    if "--save" in sys.argv:
        torch.save(sam.state_dict(), sys.argv[sys.argv.index("--save") + 1])
        return
    start = time.monotonic()
    embedding = sam.image_encoder(image())
    seconds = time.monotonic() - start
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    masks, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)
    embedding, masks = embedding[0].double(), masks[0].double()
    row = {
        "encoder": sys.argv[1],
        "embedding_mean_std": [embedding.mean().item(), embedding.std(unbiased=False).item()],
        "embedding_at": [embedding[at].item() for at in [(0, 0, 0), (7, 31, 63), (128, 40, 5), (255, 63, 63)]],
        "logits_mean_std": [masks.mean().item(), masks.std(unbiased=False).item()],
        "logits_at": [masks[at].item() for at in [(0, 0, 0), (1, 0, 0), (0, 100, 200), (1, 255, 255)]],
        "iou": iou[0].tolist(),
    }
    print(json.dumps(row))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"encoder {seconds:.1f} s, peak {peak:.1f} GiB", file=sys.stderr)


main()
