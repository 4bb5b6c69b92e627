"""Images, and DICOM objects around native or encapsulated pixels of them, right or wrong."""

import io
import struct
from dataclasses import dataclass, field

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, DEFLATED_FRAME = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"
BASELINE, EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
LOSSLESS, SV1 = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
JPEG_LS, JPEG_LS_NEAR = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
RLE = "1.2.840.10008.1.2.5"


@dataclass
class Case:
    syntax: str
    feature: str
    file: bytes
    # Values that the right decoder gives, (frames, rows, columns[, 3]); none where the file has to be refused.
    values: np.ndarray | None = None
    # Grey levels that lossy decoders may be apart.
    tolerance: float = 0
    # Kind of the refusal, and a word that it has to say.
    refused: tuple[str, str] = ()
    # The programs that are asked, too; none where no other one reads it, then `values` alone are the truth.
    peers: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def grey(rows: int, cols: int, bits: int, signed: bool = False, seed: int = 1) -> np.ndarray:
    """Smooth with noise, and with both ends of the range."""
    rng = np.random.default_rng([rows, cols, bits, seed])
    y, x = np.mgrid[0:rows, 0:cols] / max(rows, cols)
    top = (1 << bits) - 1
    image = (0.5 + 0.4 * np.sin(5 * x + 3 * y + seed)) * top + rng.normal(0, top / 60, (rows, cols))
    image = np.clip(image.round(), 0, top).astype(np.int64)
    image[0, 0], image[-1, -1] = top, 0
    return image - (1 << (bits - 1)) if signed else image


def colour(rows: int, cols: int, bits: int = 8) -> np.ndarray:
    return np.stack([grey(rows, cols, bits, seed=seed) for seed in (1, 2, 4)], axis=-1)


def smooth_colour(rows: int, cols: int) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:cols] / 64
    planes = [90 + 70 * np.sin(x), 120 + 60 * np.sin(y + 1), 100 + 50 * np.sin(x + y)]
    return np.stack(planes, axis=-1).round().astype(np.int64)


def rgb_of_ybr(ybr: np.ndarray, bits: int = 8) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2."""
    center = 1 << (bits - 1)
    y, cb, cr = (ybr[..., index].astype(float) - (center if index else 0) for index in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.floor(rgb + 0.5), 0, (1 << bits) - 1)


def words(image: np.ndarray, allocated: int, shift: int = 0, big: bool = False) -> bytes:
    mask = (1 << allocated) - 1
    return ((image.astype(np.int64) << shift) & mask).astype(f"{'>' if big else '<'}u{allocated // 8}").tobytes()


def item(content: bytes) -> bytes:
    if len(content) % 2:
        content += b"\0"
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def encapsulated(fragments: list[bytes], offsets: list[int] = (), delimiter: bool = True) -> bytes:
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if delimiter else b""
    return item(table) + b"".join(map(item, fragments)) + end


def data_set(rows: int, cols: int, **attributes) -> FileDataset:
    """Attributes of the Image Pixel module by keyword: 8 bits, MONOCHROME2 and unsigned unless said otherwise."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.2", "2.25.3"
    ds.PatientName, ds.PatientID, ds.Modality = "Test^Codec", "T-1", "OT"
    ds.Rows, ds.Columns = rows, cols
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.PixelRepresentation = 8, 0
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    if ds.SamplesPerPixel == 3 and "PlanarConfiguration" not in ds:
        ds.PlanarConfiguration = 0
    if "BitsStored" not in ds:
        ds.BitsStored = ds.BitsAllocated
    if "HighBit" not in ds:
        ds.HighBit = ds.BitsStored - 1
    return ds


def part10(ds: FileDataset, syntax: str, pixels: bytes, is_encapsulated: bool, vr: str = "", tail: bytes = b"") -> bytes:
    """Pixels are written as given, whatever the transfer syntax says of them."""
    ds.file_meta.TransferSyntaxUID = syntax
    big, implicit = syntax == BIG, syntax == IMPLICIT
    out = io.BytesIO()
    written = EXPLICIT if syntax not in (BIG, IMPLICIT) else syntax
    ds.file_meta.TransferSyntaxUID = written
    pydicom.dcmwrite(out, ds, enforce_file_format=True, little_endian=not big, implicit_vr=implicit)
    body = out.getvalue()
    length = 0xFFFFFFFF if is_encapsulated else len(pixels) + len(pixels) % 2
    order = ">" if big else "<"
    body += struct.pack(f"{order}HH", 0x7FE0, 0x10)
    vr = vr or ("OB" if is_encapsulated or ds.BitsAllocated <= 8 else "OW")
    body += b"" if implicit else vr.encode() + b"\0\0"
    body += struct.pack(f"{order}I", length) + pixels + (b"" if is_encapsulated else b"\0" * (len(pixels) % 2)) + tail
    if written == syntax:
        return body
    # The name alone is exchanged: group length, then the element.
    head, rest = body[:144], body[144:]
    group_end = struct.unpack_from("<I", body, 140)[0]
    group, dataset = rest[:group_end], rest[group_end:]
    old = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + EXPLICIT.encode() + b"\0"
    assert old in group, "the transfer syntax is where pydicom writes it"
    name = syntax.encode() + b"\0" * (len(syntax) % 2)
    group = group.replace(old, struct.pack("<HH2sH", 2, 0x10, b"UI", len(name)) + name)
    return head[:140] + struct.pack("<I", len(group)) + group + dataset


def compressed(syntax: str, ds: FileDataset, *fragments: bytes, **how) -> bytes:
    return part10(ds, syntax, encapsulated(list(fragments), **how), True)
