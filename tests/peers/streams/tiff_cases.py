"""TIFF files whose channels have strips or tiles of their own."""

import io
from collections.abc import Iterator

import numpy as np
import tifffile

from objects import Case, colour


def planes() -> Iterator[Case]:
    ways = {"one strip": {}, "strips": dict(rowsperstrip=7), "tiles": dict(tile=(16, 32))}
    ways |= {f"{name}, deflated": how | dict(compression="zlib") for name, how in ways.items()}
    for bits in (8, 16):
        image = colour(37, 50, bits)
        pixels = np.ascontiguousarray(np.moveaxis(image, -1, 0)).astype(f"u{bits // 8}")
        for order in "<>":
            for name, how in ways.items():
                out = io.BytesIO()
                tifffile.imwrite(out, pixels, photometric="rgb", planarconfig="separate", byteorder=order, **how)
                feature = f"separate planes, {bits} bits, {'II' if order == '<' else 'MM'}, {name}"
                yield Case("", feature, out.getvalue(), image[None], peers=("tifffile",))
