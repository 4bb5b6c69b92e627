"""Files with JPEG 2000, RLE, deflated and native pixels, and with fragments in and out of order."""

import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openjpeg

from jpeg_cases import DAMAGED, UNSUPPORTED, cjpeg, grey_set, one, refused
from lossless import encode
from objects import (
    BASELINE,
    BIG,
    DEFLATED,
    DEFLATED_FRAME,
    EXPLICIT,
    IMPLICIT,
    J2K,
    J2K_LOSSLESS,
    RLE,
    SV1,
    Case,
    colour,
    compressed,
    data_set,
    encapsulated,
    grey,
    part10,
    rgb_of_ybr,
    words,
)


def opj(image: np.ndarray, bits: int, signed: bool = False, kind: str = "j2k", *options: str, factors: str = "") -> bytes:
    planes = image[..., None] if image.ndim == 2 else image
    count = planes.shape[-1]
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "image.raw", Path(folder) / f"out.{kind}"
        # Big endian, plane after plane.
        width = 1 if bits <= 8 else 2
        raw.write_bytes(b"".join(words(planes[..., index], 8 * width, big=True) for index in range(count)))
        size = f"{image.shape[1]},{image.shape[0]},{count},{bits},{'s' if signed else 'u'}{factors}"
        resolutions = [] if "-n" in options else ["-n", "3"]
        command = ["opj_compress", "-i", raw, "-o", out, "-F", size, *resolutions, *options]
        subprocess.run(command, check=True, capture_output=True)
        return out.read_bytes()


def jpeg_2000() -> Iterator[Case]:
    peer = ("pydicom",)
    for bits in range(1, 17):
        for signed in (False, True) if bits > 1 else (False,):
            image = grey(67, 43, bits, signed)
            sign = "signed" if signed else "unsigned"
            # opj_compress 2.5.0 takes no raw images of odd bit depths.
            words_of = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
            stream = openjpeg.encode(image.astype(words_of), bits_stored=bits)
            yield one(J2K_LOSSLESS, f"{bits} bits, {sign}", grey_set(image, bits, signed), stream, image, peer)
    image = grey(70, 91, 12)
    ds = grey_set(image, 12)
    layers = ["-r", "20,5,1"]
    ways = {
        "tiles": ["-t", "32,32"],
        "tiles of odd size": ["-t", "13,50", "-n", "2"],
        "image and tile offsets": ["-d", "5,7", "-T", "3,2", "-t", "40,40"],
        "layers": layers,
        "one resolution": ["-n", "1"],
        "small blocks": ["-b", "8,8"],
        "precincts": ["-c", "[64,64],[32,32]"],
        "small precincts": ["-c", "[32,32],[16,16]", "-b", "8,8", "-n", "2"],
        "SOP and EPH": ["-SOP", "-EPH"],
        "tile-parts": ["-TP", "R", "-t", "40,40"],
        "PLT and TLM": ["-PLT", "-TLM"],
        "JP2 around it": [],
    }
    ways |= {f"order {order}": ["-p", order, *layers, "-t", "40,40"] for order in "LRCP RLCP RPCL PCRL CPRL".split()}
    ways |= {f"mode {mode}": ["-M", str(mode)] for mode in (1, 2, 4, 8, 16, 32, 63)}
    for name, options in ways.items():
        kind = "jp2" if name.startswith("JP2") else "j2k"
        stream = opj(image, 12, False, kind, *options)
        # pydicom takes the right and lower edge of the reference grid for the image's size.
        peer = ("opj",) if "offsets" in name else ("pydicom",)
        yield one(J2K_LOSSLESS, name, ds, stream, image, peer)
        lossy = opj(image, 12, False, kind, *[option.replace("20,5,1", "20,5") for option in options], "-I")
        yield Case(J2K, f"irreversible, {name}", compressed(J2K, ds, lossy), None, 1, peers=peer)
    for rows, cols in ((1, 1), (1, 37), (40, 1), (3, 2)):
        small = grey(rows, cols, 8)
        yield one(J2K_LOSSLESS, f"{rows} x {cols}", data_set(rows, cols), opj(small, 8, False, "j2k", "-n", "1"), small, peer)
    yield from j2k_signs()
    yield from j2k_colour()
    yield from j2k_wrong(image, ds)


def j2k_signs() -> Iterator[Case]:
    """The bits are those that were stored, whichever sign the stream gives them."""
    image = grey(33, 21, 12, True)
    unsigned = opj(image & 0xFFF, 12, False)
    yield one(J2K_LOSSLESS, "unsigned stream, PixelRepresentation 1", grey_set(image, 12, True), unsigned, image, ("pydicom",))
    signed = opj(image, 12, True)
    yield one(J2K_LOSSLESS, "signed stream, PixelRepresentation 0", grey_set(image, 12), signed, image & 0xFFF, ("pydicom",))
    for signed in (False, True):
        image = grey(33, 21, 12, signed)
        stream = opj(image, 16, signed)
        yield one(J2K_LOSSLESS, f"12 bits stored, stream of 16, signed {signed}", grey_set(image, 12, signed), stream, image, ())
        stream = opj(image, 12, signed)
        yield one(J2K_LOSSLESS, f"16 bits stored, stream of 12, signed {signed}", grey_set(image, 16, signed), stream, image, ("pydicom",))


def j2k_colour() -> Iterator[Case]:
    image = colour(40, 27)
    for name, mct in (("RGB", 0), ("RGB", 1), ("YBR_RCT", 1)):
        ds = data_set(40, 27, SamplesPerPixel=3, PhotometricInterpretation=name)
        stream = opj(image, 8, False, "j2k", "-mct", str(mct))
        yield one(J2K_LOSSLESS, f"{name}, transform {mct}", ds, stream, image, ("pydicom",))
    ds = data_set(40, 27, SamplesPerPixel=3, PhotometricInterpretation="YBR_ICT")
    stream = opj(image, 8, False, "j2k", "-mct", "1", "-I", "-r", "4")
    yield Case(J2K, "YBR_ICT", compressed(J2K, ds, stream), None, 1, peers=("pydicom",))
    ds = data_set(40, 27, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
    stream = opj(image, 8, False, "j2k", "-mct", "0")
    yield one(J2K_LOSSLESS, "YBR_FULL, no transform", ds, stream, rgb_of_ybr(image), (), tolerance=1)
    ds = data_set(40, 27, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=16)
    wide = colour(40, 27, 16)
    yield one(J2K_LOSSLESS, "RGB of 16 bits", ds, opj(wide, 16), wide, ("pydicom",))
    ds = data_set(40, 27, SamplesPerPixel=3, PhotometricInterpretation="YBR_RCT")
    yield refused(J2K_LOSSLESS, "YBR_RCT, no transform", ds, stream, UNSUPPORTED, "colour transform")


def j2k_wrong(image: np.ndarray, ds) -> Iterator[Case]:
    plain = opj(image, 12)
    tiles = opj(image, 12, False, "j2k", "-t", "32,32")
    for name, stream in {"": plain, "tiles, ": tiles}.items():
        for part in (0.3, 0.6, 0.95):
            yield refused(J2K_LOSSLESS, f"{name}{part} of it", ds, stream[: int(len(stream) * part)], "truncated", "")
    cut = plain[: len(plain) // 2] + b"\xff\xd9"
    yield refused(J2K_LOSSLESS, "half of it with EOC", ds, cut, "truncated", "")
    start = plain.index(b"\xff\x90")
    open_end = cut[: start + 6] + bytes(4) + cut[start + 10 :]
    yield refused(J2K_LOSSLESS, "half of it, tile-part to the end", ds, open_end, DAMAGED, "not to its end")
    starts = [index for index in range(len(tiles) - 12) if tiles[index : index + 4] == b"\xff\x90\0\n"]
    lost = tiles[: starts[2]] + tiles[starts[3] :]
    yield refused(J2K_LOSSLESS, "a tile is missing", ds, lost, "truncated", "")
    tiny = opj(image, 12, False, "j2k", "-c", "[16,16],[8,16]", "-b", "4,4", "-n", "2")
    yield refused(J2K_LOSSLESS, "precincts of 8 x 16", ds, tiny, UNSUPPORTED, "precincts")
    later = plain[:start] + b"\xff\x65\0\x04ab" + plain[start:]
    yield refused(J2K_LOSSLESS, "a marker of no known segment", ds, later, UNSUPPORTED, "markers")
    three = data_set(40, 28, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    planes = [grey(40, 28, 8), grey(40, 14, 8), grey(40, 14, 8)]
    yield refused(J2K, "subsampled components", three, subsampled(planes), UNSUPPORTED, "subsampled")
    siz = bytearray(opj(colour(40, 28), 8, False, "j2k", "-mct", "0"))
    siz[45] = 9
    yield refused(J2K, "components of two precisions", three, bytes(siz), UNSUPPORTED, "differ in precision")
    jp2 = opj(image, 12, False, "jp2")
    at = jp2.index(b"jp2h") - 4
    size = struct.unpack(">I", jp2[at : at + 4])[0]
    box = struct.pack(">I4sHB", 12, b"pclr", 1, 1) + bytes(1)
    palette = jp2[:at] + struct.pack(">I", size + len(box)) + jp2[at + 4 : at + size] + box + jp2[at + size :]
    yield refused(J2K_LOSSLESS, "a palette in JP2", ds, palette, UNSUPPORTED, "palette")
    yield refused(J2K_LOSSLESS, "another size than the data set's", ds, opj(image[:, :80], 12), DAMAGED, "differs from rows")


def subsampled(planes: list[np.ndarray]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "image.raw", Path(folder) / "out.j2k"
        raw.write_bytes(b"".join(words(plane, 8) for plane in planes))
        command = ["opj_compress", "-i", raw, "-o", out, "-F", "28,40,3,8,u@1x1:2x1:2x1", "-mct", "0", "-n", "3"]
        subprocess.run(command, check=True, capture_output=True)
        return out.read_bytes()


def pack_bits(data: bytes, longest: int = 128, repeats: bool = True) -> bytes:
    out, at = b"", 0
    while at < len(data):
        run = 1
        while repeats and run < longest and data[at : at + 1] == data[at + run : at + run + 1]:
            run += 1
        if run > 2:
            out, at = out + bytes([257 - run, data[at]]), at + run
            continue
        literal = data[at : at + min(longest, 5 if repeats else longest)]
        out, at = out + bytes([len(literal) - 1]) + literal, at + len(literal)
    return out


def rle(image: np.ndarray, allocated: int, pad: bytes = b"", no_op: bool = False, **how) -> bytes:
    planes = image[..., None] if image.ndim == 2 else image
    segments = []
    for channel in range(planes.shape[-1]):
        plane = np.frombuffer(words(planes[..., channel], allocated, big=True), np.uint8).reshape(-1, allocated // 8)
        for byte in range(allocated // 8):
            coded = (b"\x80" if no_op else b"") + pack_bits(plane[:, byte].tobytes(), **how) + pad
            segments.append(coded + b"\0" * (len(coded) % 2))
    starts = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(starts))) + b"".join(segments)


def run_length() -> Iterator[Case]:
    for allocated in (8, 16, 32):
        for bits in {8: (8,), 16: (12, 16), 32: (20,)}[allocated]:
            for signed in (False, True):
                image = grey(19, 23, bits, signed)
                ds = grey_set(image, bits, signed, BitsAllocated=allocated)
                sign = "signed" if signed else "unsigned"
                yield one(RLE, f"{bits} of {allocated} bits, {sign}", ds, rle(image, allocated), image, ("pydicom",))
        image = colour(19, 23, min(allocated, 16))
        ds = data_set(19, 23, SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=allocated)
        for planar in (0, 1):
            ds.PlanarConfiguration = planar
            yield one(RLE, f"RGB of {allocated} bits, planar {planar}", ds, rle(image, allocated), image, ("pydicom",))
    image = grey(19, 23, 16)
    ds = grey_set(image, 16)
    ways = {"literals only": dict(repeats=False), "runs of 7": dict(longest=7), "no-operations": dict(no_op=True)}
    ways |= {"segments padded with zeros": dict(pad=b"\0\0\0")}
    for name, how in ways.items():
        yield one(RLE, name, ds, rle(image, 16, **how), image, ("pydicom",) if "zeros" not in name else ())
    flat = np.full((19, 23), 0x1234)
    yield one(RLE, "one value", ds, rle(flat, 16), flat, ("pydicom",))
    ybr = colour(19, 23)
    ds3 = data_set(19, 23, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
    yield one(RLE, "YBR_FULL", ds3, rle(ybr, 8), rgb_of_ybr(ybr), (), tolerance=1)
    coded = rle(image, 16)
    yield refused(RLE, "cut", ds, coded[: len(coded) // 2], DAMAGED, "outside its frame")
    yield refused(RLE, "the last segment cut", ds, coded[:-40], "truncated", "")
    yield refused(RLE, "one segment for 16 bits", ds, rle(image >> 8, 8), DAMAGED, "segment count")
    yield refused(RLE, "three segments for 16 bits", ds, rle(colour(19, 23), 8), DAMAGED, "segment count")
    yield refused(RLE, "more rows than said", ds, rle(grey(24, 23, 16), 16), DAMAGED, "more than its pixels")
    yield refused(RLE, "fewer rows than said", ds, rle(grey(15, 23, 16), 16), "truncated", "")


def deflated() -> Iterator[Case]:
    for bits in (8, 16):
        image = grey(19, 23, bits)
        raw = zlib.compress(words(image, bits), 9, -15)
        yield one(DEFLATED_FRAME, f"{bits} bits", grey_set(image, bits), raw, image, ())
        yield one(DEFLATED_FRAME, f"{bits} bits, in zlib's frame", grey_set(image, bits), zlib.compress(words(image, bits)), image, ())
    image = colour(19, 23)
    ds = data_set(19, 23, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    yield one(DEFLATED_FRAME, "RGB", ds, zlib.compress(words(image, 8), 9, -15), image, ())
    frames = [grey(19, 23, 16, seed=seed) for seed in (1, 2, 3)]
    ds = grey_set(frames[0], 16, NumberOfFrames=3)
    parts = [zlib.compress(words(frame, 16), 9, -15) for frame in frames]
    yield Case(DEFLATED_FRAME, "three frames", compressed(DEFLATED_FRAME, ds, *parts), np.stack(frames))
    ds = grey_set(frames[0], 16)
    yield refused(DEFLATED_FRAME, "cut", ds, parts[0][: len(parts[0]) // 2], DAMAGED, "")
    yield refused(DEFLATED_FRAME, "too few pixels", ds, zlib.compress(bytes(100), 9, -15), "truncated", "")
    yield refused(DEFLATED_FRAME, "too many pixels", ds, zlib.compress(bytes(4000), 9, -15), DAMAGED, "more than its pixels")


def native() -> Iterator[Case]:
    for syntax in (EXPLICIT, IMPLICIT, BIG):
        for allocated, stored, high in ((8, 8, 7), (8, 6, 5), (16, 16, 15), (16, 12, 11), (16, 12, 15), (16, 10, 12), (32, 20, 19)):
            for signed in (False, True):
                image = grey(19, 23, stored, signed)
                ds = data_set(19, 23, BitsAllocated=allocated, BitsStored=stored, HighBit=high, PixelRepresentation=int(signed))
                shift = high + 1 - stored
                for vr in ("OB", "OW") if allocated == 8 and syntax == EXPLICIT else ("",):
                    if syntax == BIG and allocated == 8:
                        vr = "OB"
                    pixels = words(image, allocated, shift, syntax == BIG)
                    if syntax == BIG and allocated == 32:
                        vr = "OW"
                    file = part10(ds, syntax, pixels, False, vr)
                    sign = "signed" if signed else "unsigned"
                    peers = ("pydicom",) if shift == 0 and allocated != stored + 2 else ()
                    yield Case(syntax, f"{stored} of {allocated} bits, high bit {high}, {sign} {vr}", file, image[None], peers=peers)
        image = colour(18, 24)
        for name in ("RGB", "YBR_FULL"):
            truth = image if name == "RGB" else rgb_of_ybr(image)
            for planar in (0, 1):
                ds = data_set(18, 24, SamplesPerPixel=3, PhotometricInterpretation=name, PlanarConfiguration=planar)
                stored = np.moveaxis(image, -1, 0) if planar else image
                file = part10(ds, syntax, words(stored, 8), False, "OB")
                yield Case(syntax, f"{name}, planar {planar}", file, truth[None], 0 if name == "RGB" else 1, peers=("pydicom",))
        ds = data_set(18, 24, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
        half = image.copy()
        half[:, 1::2, 1:] = half[:, ::2, 1:]
        pairs = np.concatenate([half[:, ::2, :1], half[:, 1::2, :1], half[:, ::2, 1:]], axis=-1)
        file = part10(ds, syntax, words(pairs, 8), False, "OB")
        yield Case(syntax, "YBR_FULL_422", file, rgb_of_ybr(half)[None], 1, peers=("pydicom",))
        bits = grey(7, 11, 1)
        ds = data_set(7, 11, BitsAllocated=1, NumberOfFrames=2)
        both = np.stack([bits, 1 - bits])
        file = part10(ds, syntax, np.packbits(both.ravel().astype(np.uint8), bitorder="little").tobytes(), False, "OB")
        yield Case(syntax, "1 bit, two frames", file, both, peers=("pydicom",))
        short = part10(data_set(18, 24), syntax, bytes(400), False, "OB")
        yield Case(syntax, "too few pixels", short, refused=("truncated", ""))
        image = grey(18, 24, 8)
        longer = part10(data_set(18, 24), syntax, words(image, 8) + bytes(1000), False, "OB")
        # pydicom takes what follows for further frames.
        yield Case(syntax, "zeros behind the pixels", longer, image[None])
        for tail in (bytes(3), b"\1" * 15):
            padded = part10(data_set(18, 24), syntax, words(image, 8) + tail, False, "OB")
            yield Case(syntax, f"{len(tail)} bytes behind the pixels", padded, image[None])
        # Each row begins too early, also where what is left over happens to be black.
        for said, black in (((18, 23), 0), ((18, 23), 18), ((17, 24), 0), ((17, 24), 24), ((18, 20), 0)):
            pixels = image.copy().ravel()
            pixels[pixels.size - black :] = 0
            narrow = part10(data_set(*said), syntax, words(pixels, 8), False, "OB")
            feature = f"18 x 24 said to be {said[0]} x {said[1]}, {black} zeros at the end"
            yield Case(syntax, feature, narrow, refused=("bad_attribute", "longer than"))
        frames = np.stack([grey(5, 6, 8, seed=seed) for seed in range(10)])
        many = part10(data_set(5, 6, NumberOfFrames=9), syntax, words(frames, 8), False, "OB")
        yield Case(syntax, "ten frames said to be nine", many, refused=("bad_attribute", "longer than"))
        blocks = part10(data_set(100, 128), syntax, words(grey(100, 128, 8), 8) + bytes(1536), False, "OB")
        yield Case(syntax, "zeros to a block of 2048 bytes", blocks, grey(100, 128, 8)[None])
        wide = part10(data_set(18, 24), syntax, words(grey(18, 24, 16), 16), False, "OB")
        yield Case(syntax, "16 bits, said to be 8", wide, refused=("bad_attribute", "longer than"))
        stream = encapsulated([cjpeg(grey(18, 24, 8), "-grayscale")])
        if syntax != BIG:
            said = part10(data_set(18, 24), syntax, stream, True)
            yield Case(syntax, "encapsulated pixels", said, refused=("bad_attribute", "encapsulated"))
    for syntax in (BASELINE, SV1, J2K, RLE, DEFLATED_FRAME):
        file = part10(data_set(18, 24), syntax, words(grey(18, 24, 8), 8), False, "OB")
        yield Case(syntax, "native pixels", file, refused=("bad_attribute", "not encapsulated"))
    yield from deflated_data_set()


def deflated_data_set() -> Iterator[Case]:
    image = grey(19, 23, 12)
    plain = part10(grey_set(image, 12), DEFLATED, words(image, 16), False)
    start = 144 + struct.unpack_from("<I", plain, 140)[0]
    head, data = plain[:start], plain[start:]
    raw = zlib.compress(data, 9, -15)
    yield Case(DEFLATED, "12 of 16 bits", head + raw, image[None], peers=("pydicom",))
    yield Case(DEFLATED, "a byte behind the stream", head + raw + b"\0", image[None], peers=("pydicom",))
    yield Case(DEFLATED, "cut", head + raw[: len(raw) // 2], refused=("truncated", ""))


def fragments() -> Iterator[Case]:
    """Items of encapsulated pixel data, in and out of order."""
    frames = [grey(16, 20, 8, seed=seed) for seed in (1, 2, 3)]
    truth = np.stack(frames)
    ds = data_set(16, 20, NumberOfFrames=3)
    jpeg = [encode([frame], 8) for frame in frames]
    coded = {SV1: jpeg, RLE: [rle(frame, 8) for frame in frames], J2K_LOSSLESS: [opj(frame, 8) for frame in frames]}
    for syntax, parts in coded.items():
        even = [part + b"\0" * (len(part) % 2) for part in parts]
        offsets = [sum(len(part) + 8 for part in even[:index]) for index in range(3)]
        for name, how in {
            "no offset table": {},
            "offset table": dict(offsets=offsets),
            "offset table of zeros": dict(offsets=[0, 0, 0]),
            "no sequence delimiter": dict(delimiter=False),
        }.items():
            yield Case(syntax, f"three frames, {name}", compressed(syntax, ds, *parts, **how), truth)
        halves = [half for part in even for half in (part[: len(part) // 4 * 2], part[len(part) // 4 * 2 :])]
        joined = [sum(len(half) + 8 for half in halves[: 2 * index]) for index in range(3)]
        yield Case(syntax, "two fragments a frame, offset table", compressed(syntax, ds, *halves, offsets=joined), truth)
        without = compressed(syntax, ds, *halves)
        if syntax == RLE:
            yield Case(syntax, "two fragments a frame, no offset table", without, refused=(DAMAGED, "offset table"))
        else:
            yield Case(syntax, "two fragments a frame, no offset table", without, truth)
            wrong = compressed(syntax, ds, *halves, offsets=[0, 10, 20])
            yield Case(syntax, "two fragments a frame, wrong offset table", wrong, truth)
        padded = [part + bytes(6) for part in even]
        yield Case(syntax, "zeros behind each stream", compressed(syntax, ds, *padded), truth)
        yield Case(syntax, "an empty fragment at the end", compressed(syntax, ds, *parts, b""), truth)
        two = data_set(16, 20, NumberOfFrames=2)
        yield Case(syntax, "more frames than NumberOfFrames", compressed(syntax, two, *parts), refused=(DAMAGED, ""))
        four = data_set(16, 20, NumberOfFrames=4)
        yield Case(syntax, "fewer frames than NumberOfFrames", compressed(syntax, four, *parts), refused=("truncated", ""))
        none = compressed(syntax, data_set(16, 20))
        yield Case(syntax, "no fragment", none, refused=("truncated", ""))
    yield Case(SV1, "a JPEG 2000 stream", compressed(SV1, data_set(16, 20), coded[J2K_LOSSLESS][0]), truth[:1])
    yield Case(SV1, "no stream", compressed(SV1, data_set(16, 20), bytes(range(200))), refused=(DAMAGED, "neither"))
