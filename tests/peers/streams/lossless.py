"""Lossless JPEG streams (T.81 process 14) with every choice that a writer has; no tool at hand writes them all."""

import struct

import numpy as np


class Bits:
    def __init__(self) -> None:
        self.out = bytearray()
        self.buffer = self.count = 0

    def put(self, value: int, count: int) -> None:
        self.buffer = self.buffer << count | value & ((1 << count) - 1)
        self.count += count
        while self.count >= 8:
            self.count -= 8
            byte = self.buffer >> self.count & 255
            self.out += bytes([byte, 0]) if byte == 255 else bytes([byte])
        self.buffer &= (1 << self.count) - 1

    def flush(self) -> bytes:
        if self.count:
            self.put(-1, 8 - self.count)
        return bytes(self.out)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content


# Codes: five bits for each category; or 2 bits for the lowest three and up to 16 for the highest.
FLAT = ([0, 0, 0, 0, 17] + [0] * 11, [(category, 5) for category in range(17)])
STEEP = (
    [0, 3] + [1] * 14,
    [(0, 2), (1, 2), (2, 2)] + [((1 << category) - 2, category) for category in range(3, 17)],
)


def predictions(plane: np.ndarray, selection: int, first: bool, start: int) -> np.ndarray:
    """Of the last row of `plane`, which begins one row above it unless it is the `first` of an interval."""
    row = plane[-1]
    out = np.empty_like(row)
    if first:
        out[0] = start
        out[1:] = row[:-1]
        return out
    above = plane[-2]
    a, b, c = row[:-1], above[1:], above[:-1]
    out[0] = above[0]
    out[1:] = [a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1][selection - 1]
    return out


def encode(
    planes: list[np.ndarray],
    precision: int,
    selection: int = 1,
    point_transform: int = 0,
    interval_rows: int = 0,
    interval: int = 0,
    interleaved: bool = True,
    codes: tuple = FLAT,
    table: int = 0,
    dnl: bool = False,
    modulo: int = 16,
    factors: int = 0x11,
    extra: bytes = b"",
) -> bytes:
    planes = [np.asarray(plane, np.int64) >> point_transform for plane in planes]
    rows, cols = planes[0].shape
    counts, lengths = codes
    ids = range(1, len(planes) + 1)
    out = b"\xff\xd8" + extra
    out += segment(0xC4, bytes([table, *counts, *range(17)]))
    out += segment(
        0xC3,
        struct.pack(">BHHB", precision, 0 if dnl else rows, cols, len(planes))
        + b"".join(bytes([index, factors, 0]) for index in ids),
    )
    if interval_rows or interval:
        out += segment(0xDD, struct.pack(">H", interval or interval_rows * cols))
    scans = [list(range(len(planes)))] if interleaved else [[index] for index in range(len(planes))]
    for number, scan in enumerate(scans):
        header = bytes([len(scan)]) + b"".join(bytes([index + 1, table << 4]) for index in scan)
        out += segment(0xDA, header + bytes([selection, 0, point_transform]))
        restarts, bits = 0, Bits()
        for y in range(rows):
            first = y == 0 or bool(interval_rows) and y % interval_rows == 0
            if first and y:
                out += bits.flush() + bytes([0xFF, 0xD0 + restarts % 8])
                restarts, bits = restarts + 1, Bits()
            differences = []
            for index in scan:
                part = planes[index][max(0, y - 1) : y + 1]
                start = 1 << (precision - point_transform - 1)
                difference = part[-1] - predictions(part, selection, first, start)
                half = 1 << (modulo - 1)
                differences.append((difference + half - 1) % (2 * half) - half + 1)
            for values in zip(*differences):
                for value in map(int, values):
                    category = abs(value).bit_length()
                    bits.put(*lengths[category])
                    if 0 < category < 16:
                        bits.put(value - (value < 0), category)
        out += bits.flush()
        if dnl and number == 0:
            out += segment(0xDC, struct.pack(">H", rows))
    return out + b"\xff\xd9"
