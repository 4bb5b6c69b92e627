"""Files with JPEG inside, lossless and by DCT."""

import io
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lossless import FLAT, STEEP, encode, segment
from objects import (
    BASELINE,
    EXTENDED,
    EXPLICIT,
    LOSSLESS,
    SV1,
    Case,
    colour,
    compressed,
    data_set,
    grey,
    part10,
    rgb_of_ybr,
    smooth_colour,
    words,
)

UNSUPPORTED, DAMAGED = "unsupported", "malformed"


def grey_set(image: np.ndarray, bits: int, signed: bool = False, **attributes):
    allocated = 8 if bits <= 8 else 16
    return data_set(
        *image.shape,
        **{"BitsAllocated": allocated, "BitsStored": bits, "PixelRepresentation": int(signed)} | attributes,
    )


def one(syntax: str, feature: str, ds, stream: bytes, values: np.ndarray, peers=("dcmtk", "pydicom"), **how) -> Case:
    return Case(syntax, feature, compressed(syntax, ds, stream), values[None], peers=peers, **how)


def refused(syntax: str, feature: str, ds, stream: bytes, kind: str, word: str) -> Case:
    return Case(syntax, feature, compressed(syntax, ds, stream), refused=(kind, word))


def lossless() -> Iterator[Case]:
    for selection in range(1, 8):
        for bits in (2, 7, 8, 9, 12, 15, 16):
            image = grey(21, 33, bits)
            stream = encode([image], bits, selection)
            # DCMTK has decoders for 8, 12 and 16 bits with 8 bits of those below.
            yield one(LOSSLESS, f"predictor {selection}, {bits} bits", grey_set(image, bits), stream, image)
        image = grey(37, 24, 12)
        for rows in (1, 3, 36):
            stream = encode([image], 12, selection, interval_rows=rows)
            yield one(LOSSLESS, f"predictor {selection}, a restart each {rows} rows", grey_set(image, 12), stream, image)
    image = grey(37, 24, 12)
    for rows in (1, 2, 32):
        stream = encode([image], 12, interval_rows=rows, codes=STEEP)
        yield one(SV1, f"a restart each {rows} rows", grey_set(image, 12), stream, image)
    for shift in (1, 2, 5, 11):
        for selection in (1, 7):
            cut = image >> shift << shift
            stream = encode([image], 12, selection, point_transform=shift, interval_rows=5)
            yield one(LOSSLESS, f"point transform {shift}, predictor {selection}", grey_set(image, 12), stream, cut, ("dcmtk",))
    for rows, cols in ((1, 1), (1, 19), (23, 1), (2, 2), (17, 31)):
        image = grey(rows, cols, 16)
        yield one(SV1, f"{rows} x {cols}", grey_set(image, 16), encode([image], 16), image)
    for bits in (8, 12, 16):
        for selection in (1, 4, 5, 6, 7):
            image = grey(21, 33, bits, signed=True)
            pattern = image & ((1 << bits) - 1)
            stream = encode([pattern], bits, selection)
            yield one(LOSSLESS, f"signed, {bits} bits, predictor {selection}", grey_set(image, bits, True), stream, image)
    image = grey(20, 20, 12)
    for stored, precision in ((12, 16), (16, 12), (12, 14)):
        ds = grey_set(image, stored)
        yield one(SV1, f"{stored} bits stored, stream of {precision}", ds, encode([image], precision), image)
    left = grey_set(image, 12, HighBit=15)
    yield one(SV1, "12 bits stored at the top of 16", left, encode([image << 4], 16), image, ())
    overlay = image | (grey(20, 20, 4) << 12)
    yield one(SV1, "overlay above 12 bits stored", grey_set(image, 12), encode([overlay], 16), image, ())
    for selection in (1, 2, 4):
        stream = encode([image], 12, selection, modulo=12)
        yield one(LOSSLESS, f"differences modulo 2^12, predictor {selection}", grey_set(image, 12), stream, image, ())
    for codes, table in ((STEEP, 0), (STEEP, 3), (FLAT, 1)):
        stream = encode([image], 12, codes=codes, table=table)
        yield one(SV1, f"huffman table {table}, codes to {16 if codes is STEEP else 5} bits", grey_set(image, 12), stream, image)
    yield one(SV1, "rows behind the scan (DNL)", grey_set(image, 12), encode([image], 12, dnl=True), image, ("pydicom",))
    comment = segment(0xFE, b"\xff\xd8\xff\xda text") + segment(0xE5, bytes(40))
    yield one(SV1, "comment and application segments", grey_set(image, 12), encode([image], 12, extra=comment), image)
    yield from lossless_colour()
    yield from lossless_wrong()


def lossless_colour() -> Iterator[Case]:
    for name in ("RGB", "YBR_FULL"):
        for bits in (8, 16):
            image = colour(17, 22, bits)
            planes = [image[..., index] for index in range(3)]
            truth = image if name == "RGB" else rgb_of_ybr(image, bits)
            ds = dict(SamplesPerPixel=3, PhotometricInterpretation=name, BitsAllocated=bits)
            for interleaved in (True, False):
                for selection in (1, 6):
                    stream = encode(planes, bits, selection, interleaved=interleaved, interval_rows=4)
                    way = "interleaved" if interleaved else "a scan each"
                    feature = f"{name}, {bits} bits, {way}, predictor {selection}"
                    peers = ("pydicom",) if name == "RGB" else ()
                    yield one(LOSSLESS, feature, data_set(17, 22, **ds), stream, truth, peers, tolerance=0 if name == "RGB" else 1)


def lossless_wrong() -> Iterator[Case]:
    image = grey(20, 20, 12)
    ds, stream = grey_set(image, 12), encode([image], 12)
    for left in (len(stream) // 2, len(stream) - 8):
        yield refused(SV1, f"cut after {left} bytes", ds, stream[:left], DAMAGED, "ends before")
        yield refused(SV1, f"cut after {left} bytes, with EOI", ds, stream[:left] + b"\xff\xd9", DAMAGED, "ends before")
    yield refused(SV1, "a restart within a row", ds, encode([image], 12, interval=7), UNSUPPORTED, "restart intervals")
    lost = encode([image], 12, interval_rows=4)
    first, second = (lost.index(bytes([0xFF, 0xD0 + index])) for index in (1, 2))
    yield refused(SV1, "an interval is missing", ds, lost[:first] + lost[second:], DAMAGED, "restart marker")
    more = encode([grey(24, 20, 12)], 12).replace(struct.pack(">HH", 24, 20), struct.pack(">HH", 20, 20), 1)
    yield refused(SV1, "more rows coded than said", ds, more, DAMAGED, "goes on behind")
    yield refused(SV1, "another size than the data set's", ds, encode([image[:, :18]], 12), DAMAGED, "differs from rows")
    yield refused(SV1, "three components for one sample", ds, encode([image] * 3, 12), DAMAGED, "differs from rows")
    yield refused(SV1, "no huffman table", ds, stream[:2] + stream[2 + 2 + 36 :], DAMAGED, "table")
    yield refused(SV1, "arithmetic coding", ds, stream.replace(b"\xff\xc3", b"\xff\xcb", 1), UNSUPPORTED, "arithmetic")
    yield refused(SV1, "hierarchical", ds, stream.replace(b"\xff\xc3", b"\xff\xc7", 1), UNSUPPORTED, "hierarchical")
    three = data_set(20, 20, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8)
    planes = [grey(20, 20, 8)] * 3
    yield refused(SV1, "sampling factors of two", three, encode(planes, 8, factors=0x22), UNSUPPORTED, "subsampled")
    wraps = encode([image], 12, 5, modulo=12)
    yield refused(LOSSLESS, "differences modulo 2^12, predictor 5", ds, wraps, DAMAGED, "more bits")


def cjpeg(image: np.ndarray, *options: str) -> bytes:
    image = image.astype(np.uint8)
    kind, size = ("P6" if image.ndim == 3 else "P5"), f"{image.shape[1]} {image.shape[0]}"
    netpbm = f"{kind}\n{size}\n255\n".encode() + image.tobytes()
    return subprocess.run(["cjpeg", "-quality", "90", *options], input=netpbm, capture_output=True, check=True).stdout


def pillow(stream: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stream)).convert(None)).astype(np.int64)


def without_markers(stream: bytes) -> bytes:
    """Without JFIF's and Adobe's segments, and so without a word on colours."""
    assert stream[2:4] in (b"\xff\xe0", b"\xff\xee")
    length = struct.unpack(">H", stream[4:6])[0]
    return stream[:2] + stream[4 + length :]


def dct(syntax: str, feature: str, ds, stream: bytes, tolerance: float) -> Case:
    return Case(syntax, feature, compressed(syntax, ds, stream), pillow(stream)[None], tolerance)


def by_dct() -> Iterator[Case]:
    grey_options = {"": [], "optimized": ["-optimize"], "restarts by rows": ["-restart", "1"]}
    grey_options |= {"restarts by blocks": ["-restart", "3B"], "progressive": ["-progressive"]}
    for rows, cols in ((64, 64), (61, 43), (1, 1), (8, 17), (7, 100)):
        image = grey(rows, cols, 8)
        for name, options in grey_options.items():
            stream = cjpeg(image, "-grayscale", *options)
            for syntax in (BASELINE, EXTENDED):
                yield dct(syntax, f"grey {rows} x {cols} {name}", data_set(rows, cols), stream, 1)
    stream = cjpeg(grey(61, 43, 8), "-grayscale", "-sample", "2x2")
    yield dct(BASELINE, "grey with sampling factors of two", data_set(61, 43), stream, 1)
    ybr = dict(SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    for rows, cols in ((64, 64), (61, 43), (17, 33), (2, 3)):
        image = smooth_colour(rows, cols)
        for sampling in ("1x1", "2x1", "1x2", "2x2", "4x1", "4x2"):
            for name, options in {"": [], "progressive": ["-progressive"], "restarts": ["-restart", "1"]}.items():
                stream = cjpeg(image, "-sample", sampling, *options)
                feature = f"colour {rows} x {cols}, {sampling} {name}"
                yield dct(BASELINE, feature, data_set(rows, cols, **ybr), stream, 3)
    with tempfile.NamedTemporaryFile("w", suffix=".scans") as script:
        script.write("0;\n1;\n2;\n")
        script.flush()
        for sampling in ("1x1", "2x1", "2x2"):
            stream = cjpeg(smooth_colour(61, 43), "-sample", sampling, "-scans", script.name)
            yield dct(BASELINE, f"a scan for each component, {sampling}", data_set(61, 43, **ybr), stream, 3)
    yield from colours()
    yield from twelve_bits()
    yield from wrong_dct()


def colours() -> Iterator[Case]:
    """What a stream says of its colours goes before PhotometricInterpretation; DCMTK's rule where it says nothing."""
    image = smooth_colour(40, 40)
    ybr, rgb = cjpeg(image, "-sample", "1x1"), cjpeg(image, "-rgb")
    for name in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        ds = data_set(40, 40, SamplesPerPixel=3, PhotometricInterpretation=name)
        yield dct(BASELINE, f"JFIF, said to be {name}", ds, ybr, 2)
        yield dct(BASELINE, f"Adobe's RGB, said to be {name}", ds, rgb, 2)
        yield dct(BASELINE, f"components called R, G, B, said to be {name}", ds, without_markers(rgb), 2)
    bare = without_markers(ybr)
    ds = data_set(40, 40, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
    yield dct(BASELINE, "no word on colours, said to be YBR_FULL", ds, bare, 2)
    # The components of RGB, under neutral names.
    numbered = without_markers(rgb)
    for letter, number in zip(b"RGB", (1, 2, 3)):
        numbered = numbered.replace(bytes([letter, 0x11, 0]), bytes([number, 0x11, 0]))
    start = numbered.index(b"\xff\xda")
    header = numbered[start : start + 14].replace(b"R", b"\1").replace(b"G", b"\2").replace(b"B", b"\3")
    numbered = numbered[:start] + header + numbered[start + 14 :]
    ds = data_set(40, 40, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    yield Case(BASELINE, "no word on colours, said to be RGB", compressed(BASELINE, ds, numbered), pillow(rgb)[None], 2, peers=("dcmtk",))


def twelve_bits() -> Iterator[Case]:
    """DCMTK writes them, and reads them back."""
    for rows, cols in ((64, 64), (61, 43)):
        image = grey(rows, cols, 12)
        for name, options in {"": ["+ee"], "spectral selection": ["+es"], "progressive": ["+ep"]}.items():
            with tempfile.TemporaryDirectory() as folder:
                plain, coded, back = (Path(folder) / name for name in ("plain", "coded", "back"))
                plain.write_bytes(part10(grey_set(image, 12), EXPLICIT, words(image, 16), False))
                subprocess.run(["dcmcjpeg", *options, "+bt", "+q", "95", plain, coded], check=True, capture_output=True)
                subprocess.run(["dcmdjpeg", coded, back], check=True, capture_output=True)
                data = back.read_bytes()
                file = coded.read_bytes().replace(b"1.2.840.10008.1.2.4.53", b"1.2.840.10008.1.2.4.51")
                file = file.replace(b"1.2.840.10008.1.2.4.55", b"1.2.840.10008.1.2.4.51")
            values = np.frombuffer(data[-2 * image.size :], "<u2").reshape(1, rows, cols)
            yield Case(EXTENDED, f"12 bits, {rows} x {cols} {name}", file, values, 2)


def wrong_dct() -> Iterator[Case]:
    image = grey(61, 43, 8)
    ds = data_set(61, 43)
    for name, options in {"sequential": [], "progressive": ["-progressive"], "restarts": ["-restart", "1"]}.items():
        stream = cjpeg(image, "-grayscale", *options)
        for part in (0.4, 0.7, 0.95):
            cut = stream[: int(len(stream) * part)]
            kind = "truncated" if name == "progressive" else DAMAGED
            yield refused(BASELINE, f"{name}, {part} of it", ds, cut, "", "")
            yield refused(BASELINE, f"{name}, {part} of it with EOI", ds, cut.rstrip(b"\xff") + b"\xff\xd9", DAMAGED, "")
    color = data_set(61, 43, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    yield refused(BASELINE, "arithmetic coding", ds, cjpeg(image, "-grayscale", "-arithmetic"), UNSUPPORTED, "arithmetic")
    stream = cjpeg(image, "-grayscale")
    yield refused(BASELINE, "hierarchical", ds, stream.replace(b"\xff\xc0", b"\xff\xc5", 1), UNSUPPORTED, "hierarchical")
    yield refused(BASELINE, "colour for one sample", ds, cjpeg(smooth_colour(61, 43)), DAMAGED, "differs from rows")
    yield refused(BASELINE, "grey for three samples", color, stream, DAMAGED, "differs from rows")
    odd = cjpeg(smooth_colour(61, 43), "-sample", "2x1").replace(b"\1\x21\0\2\x11", b"\1\x31\0\2\x21")
    yield refused(BASELINE, "fractional subsampling", color, odd, UNSUPPORTED, "whole number")
    cmyk = io.BytesIO()
    Image.fromarray(np.zeros((61, 43, 4), np.uint8), "CMYK").save(cmyk, "JPEG")
    yield refused(BASELINE, "four components", color, cmyk.getvalue(), DAMAGED, "differs from rows")
