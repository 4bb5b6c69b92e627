"""Writes augment.json: what Pillow makes of a small picture, as torchvision's PIL transforms call it.

    .scanside/venv/bin/python tests/golden/make_augment.py
"""

import json
from pathlib import Path

import numpy
from PIL import Image, ImageEnhance, ImageOps

ROWS, COLS = 15, 18


def picture():
    """Red, green and blue of a place; trainer/src/augment/eight_bit.rs has the same formula."""
    index = numpy.arange(ROWS * COLS)
    channels = [(index * index * (7 + 2 * c) + index * 3 + c * 41) % 157 + index % 5 * 24 for c in range(3)]
    return Image.fromarray(numpy.stack(channels, 1).reshape(ROWS, COLS, 3).astype("uint8"))


def hue(image, factor):
    """torchvision's `adjust_hue` on a PIL image."""
    h, s, v = image.convert("HSV").split()
    turned = numpy.array(h) + numpy.int32(factor * 255).astype("uint8")
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")


def numbers(image):
    """The first 40 pixels and the sum of all."""
    values = numpy.array(image).reshape(-1, 3)
    return {"first": values[:40].ravel().tolist(), "sum": int(values.sum())}


image = picture()
result = {"equalize": numbers(ImageOps.equalize(image))}
for factor in (0.7, 0.85, 1.3):
    result[f"brightness {factor}"] = numbers(ImageEnhance.Brightness(image).enhance(factor))
    result[f"contrast {factor}"] = numbers(ImageEnhance.Contrast(image).enhance(factor))
    result[f"saturation {factor}"] = numbers(ImageEnhance.Color(image).enhance(factor))
for factor in (-0.3, 0.0, 0.1):
    result[f"hue {factor}"] = numbers(hue(image, factor))
numbered = Image.fromarray(numpy.arange(1, 65).reshape(8, 8).astype("uint8"))
result["rotate 30"] = {"first": numpy.array(numbered.rotate(30, Image.Resampling.NEAREST)).ravel().tolist(), "sum": 0}
lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in result.items()]
Path(__file__).with_name("augment.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
