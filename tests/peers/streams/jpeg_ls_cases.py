"""Files with JPEG-LS inside: read with the feature `jpeg-ls`, refused by name without it."""

from collections.abc import Iterator

import jpeg_ls
import numpy as np

from jpeg_cases import DAMAGED, UNSUPPORTED, grey_set, one, refused
from objects import JPEG_LS, JPEG_LS_NEAR, Case, colour, compressed, data_set, encapsulated, grey, part10, rgb_of_ybr

NO_INTERLEAVE, BY_LINE, BY_SAMPLE = 0, 1, 2


def coded(image: np.ndarray, bits: int, near: int = 0, interleave: int | None = None) -> bytes:
    """The stream of an image, by CharLS, which takes samples by pixel for lines, too."""
    rows, columns = image.shape[:2]
    stored = (image & ((1 << bits) - 1)).astype("u1" if bits <= 8 else "<u2")
    if interleave == NO_INTERLEAVE:
        stored = np.moveaxis(stored, -1, 0)
    samples = 1 if interleave is None else 3
    return bytes(jpeg_ls.encode_buffer(stored.tobytes(), rows, columns, samples, bits, near, interleave or 0))


def without() -> Iterator[Case]:
    """What is built without the feature says so."""
    for syntax in (JPEG_LS, JPEG_LS_NEAR):
        image = grey(18, 24, 8)
        yield refused(syntax, "any stream", data_set(18, 24), coded(image, 8), "unsupported_transfer_syntax", "JPEG-LS")


def built_in() -> Iterator[Case]:
    yield from of_one_sample()
    yield from of_colour()
    yield from wrong()


def of_one_sample() -> Iterator[Case]:
    peers = ("pydicom", "libjpeg")
    for bits in range(2, 17):
        for signed in (False, True):
            image = grey(29, 37, bits, signed)
            sign = "signed" if signed else "unsigned"
            ds = grey_set(image, bits, signed)
            yield one(JPEG_LS, f"{bits} bits, {sign}", ds, coded(image, bits), image, peers)
        image = grey(29, 37, bits)
        for near in (1, 3):
            if near * 2 < 1 << bits:
                stream = compressed(JPEG_LS_NEAR, grey_set(image, bits), coded(image, bits, near))
                # Decoders agree to the bit; what went in is `near` away.
                yield Case(JPEG_LS_NEAR, f"{bits} bits, NEAR {near}", stream, image[None], near, peers=peers)
                yield Case(JPEG_LS_NEAR, f"{bits} bits, NEAR {near}, as others decode it", stream, None, peers=peers)
    for rows, cols in ((1, 37), (40, 1), (9, 7), (255, 257)):
        image = grey(rows, cols, 12)
        yield one(JPEG_LS, f"{rows} x {cols}", grey_set(image, 12), coded(image, 12), image, peers)
    flat = np.full((33, 65), 1000)
    yield one(JPEG_LS, "a run to the end", grey_set(flat, 12), coded(flat, 12), flat, peers)
    image = grey(33, 21, 12, True)
    yield one(JPEG_LS, "12 bits stored, stream of 16", grey_set(image, 12, True), coded(image, 16), image, ())
    image = grey(33, 21, 12)
    yield one(JPEG_LS, "16 bits stored, stream of 12", grey_set(image, 16), coded(image, 12), image, ("pydicom",))
    both = np.stack([image, image[::-1]])
    ds = grey_set(image, 12, NumberOfFrames=2)
    frames = part10(ds, JPEG_LS, encapsulated([coded(frame, 12) for frame in both]), True)
    yield Case(JPEG_LS, "two frames", frames, both, peers=peers)
    yield one(JPEG_LS_NEAR, "NEAR 0", grey_set(image, 12), coded(image, 12), image, peers)


def of_colour() -> Iterator[Case]:
    names = {NO_INTERLEAVE: "a scan each", BY_LINE: "by line", BY_SAMPLE: "by sample"}
    for interleave, name in names.items():
        for bits in (8, 12, 16):
            image = colour(26, 31, bits)
            ds = data_set(
                *image.shape[:2], SamplesPerPixel=3, PhotometricInterpretation="RGB",
                BitsAllocated=8 if bits == 8 else 16, BitsStored=bits,
            )  # fmt: skip
            stream = coded(image, bits, 0, interleave)
            yield one(JPEG_LS, f"RGB of {bits} bits, {name}", ds, stream, image, ("pydicom",))
            near = compressed(JPEG_LS_NEAR, ds, coded(image, bits, 2, interleave))
            yield Case(JPEG_LS_NEAR, f"RGB of {bits} bits, {name}, NEAR 2", near, image[None], 2, peers=("pydicom",))
        image = colour(26, 31)
        ds = data_set(26, 31, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
        yield one(JPEG_LS, f"YBR_FULL, {name}", ds, coded(image, 8, 0, interleave), rgb_of_ybr(image), (), tolerance=1)


def wrong() -> Iterator[Case]:
    image = grey(29, 37, 12)
    ds, stream = grey_set(image, 12), coded(image, 12)
    for part in (0.3, 0.6, 0.95):
        yield refused(JPEG_LS, f"{part} of it", ds, stream[: int(len(stream) * part)], DAMAGED, "")
    half = stream[: len(stream) // 2] + b"\xff\xd9"
    yield refused(JPEG_LS, "half of it with EOI", ds, half, DAMAGED, "")
    yield refused(JPEG_LS, "another size than the data set's", ds, coded(grey(29, 36, 12), 12), DAMAGED, "rows")
    sampled = data_set(29, 37, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    yield refused(JPEG_LS, "one component of three", sampled, coded(grey(29, 37, 8), 8), DAMAGED, "samples")
    # Start of scan: length, components, number and table of each, NEAR, interleave, point transform.
    scan = stream.index(b"\xff\xda\0\x08")
    shifted = stream[: scan + 9] + b"\1" + stream[scan + 10 :]
    yield refused(JPEG_LS, "a point transform", ds, shifted, UNSUPPORTED, "point transform")
    table = stream[: scan + 6] + b"\1" + stream[scan + 7 :]
    yield refused(JPEG_LS, "a mapping table", ds, table, UNSUPPORTED, "mapping tables")
