"""What is decoded is decoded exactly, whatever a sender uses of a transfer syntax; the rest is refused in words.

transfer_syntaxes.py PIXELS [--jpeg-ls] [--verbose]

PIXELS is the built example `pixels` of segmenter; `--jpeg-ls` says that it has that feature and tries JPEG-LS. Files are made here with each feature of each transfer syntax that
is accepted, and their values held against those that went in and against other decoders: pydicom with pylibjpeg,
DCMTK, libjpeg-turbo. Fails where a value differs, where a file is refused that should be read, or the other way.
RGB TIFFs with separate planes are among them. Needs numpy, pillow, pydicom, pyjpegls, pylibjpeg with all its
plugins, tifffile, DCMTK, cjpeg and opj_compress.
"""

import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import tifffile

sys.path.insert(0, str(Path(__file__).parent / "streams"))
import jpeg_cases
import jpeg_ls_cases
import other_cases
import tiff_cases
from objects import Case

GROUPS = [
    jpeg_cases.lossless,
    jpeg_cases.by_dct,
    other_cases.jpeg_2000,
    other_cases.run_length,
    other_cases.deflated,
    other_cases.native,
    other_cases.fragments,
    tiff_cases.planes,
    jpeg_ls_cases.without,
]
NAMES = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "": "TIFF",
}


def by_pydicom(file: Path) -> np.ndarray:
    ds = pydicom.dcmread(file)
    return ds.pixel_array.astype(np.float64)


def by_libjpeg(file: Path) -> np.ndarray:
    return pydicom.pixels.pixel_array(file, decoding_plugin="pylibjpeg").astype(np.float64)


def by_dcmtk(file: Path) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.dcm"
        subprocess.run(["dcmdjpeg", file, plain], check=True, capture_output=True)
        return by_pydicom(plain)


def by_opj(file: Path) -> np.ndarray:
    """The code stream alone, by OpenJPEG's own program: grey, unsigned."""
    data = file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        stream, plain = Path(folder) / "stream.j2k", Path(folder) / "plain.pgm"
        stream.write_bytes(data[data.index(b"\xff\x4f\xff\x51") :])
        subprocess.run(["opj_decompress", "-i", stream, "-o", plain], check=True, capture_output=True)
        ds = pydicom.dcmread(file)
        return np.frombuffer(plain.read_bytes()[-2 * ds.Rows * ds.Columns :], ">u2")


def by_tifffile(file: Path) -> np.ndarray:
    values = tifffile.imread(file)
    return np.moveaxis(values, 0, -1) if values.ndim == 3 and values.shape[0] == 3 else values


PEERS = {"pydicom": by_pydicom, "libjpeg": by_libjpeg, "dcmtk": by_dcmtk, "opj": by_opj, "tifffile": by_tifffile}


def decoded(pixels: Path, files: list[Path], out: Path) -> list[tuple[str, np.ndarray | None]]:
    """Of each file the line that the program printed, and the values."""
    run = subprocess.run([pixels, out, *files], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    if run.returncode != 0 or len(lines) != len(files):
        sys.exit(f"{pixels} ended with {run.returncode} after {len(lines)} of {len(files)} files: {run.stderr}")
    results = []
    for index, line in enumerate(lines):
        word, *rest = line.split(" ")
        if word == "error":
            results.append((line, None))
            continue
        frames, rows, cols, channels = map(int, rest)
        shape = (frames, rows, cols) if channels == 1 else (frames, rows, cols, channels)
        results.append((line, np.fromfile(out / f"{index}.f32", "<f4").reshape(shape)))
    return results


def apart(ours: np.ndarray, other: np.ndarray) -> float:
    other = np.asarray(other, np.float64)
    if other.size != ours.size:
        return np.inf
    return float(np.abs(ours - other.reshape(ours.shape)).max())


def judge(case: Case, line: str, ours: np.ndarray | None, file: Path) -> tuple[str, str]:
    """Exact, within the tolerance, refused or WRONG; and what there is to say of it."""
    if case.refused:
        kind, word = case.refused
        if ours is not None:
            return "WRONG", "is read, and should be refused"
        said = line.split(" ")[1]
        if kind and said != kind or word and word not in line:
            return "WRONG", f"is refused as {line}, expected {kind}: {word}"
        return "refused", line.removeprefix("error ")
    if ours is None:
        return "WRONG", f"is refused: {line}"
    worst, checked, silent = 0.0, [], []
    if case.values is not None:
        worst = apart(ours, case.values)
        checked.append("what went in")
    for peer in case.peers:
        try:
            other = PEERS[peer](file)
        except Exception as error:
            silent.append(f"{peer} does not read it ({str(error).splitlines()[0][:60] if str(error) else type(error).__name__})")
            continue
        difference = apart(ours, other)
        if case.values is not None and difference > case.tolerance >= apart(ours, case.values):
            # The other program differs from what went in: its fault, said and not hidden.
            silent.append(f"{peer} is {difference:g} from what went in")
            continue
        worst = max(worst, difference)
        checked.append(peer)
    if not checked:
        return "WRONG", f"nothing to compare with: {silent}"
    note = "; ".join(silent)
    if worst > case.tolerance:
        return "WRONG", f"{worst:g} apart from {checked}; {note}"
    return ("exact" if worst == 0 else "within"), note


def main() -> int:
    warnings.simplefilter("ignore")
    pixels, verbose = Path(sys.argv[1]).resolve(), "--verbose" in sys.argv
    groups = [jpeg_ls_cases.built_in] if "--jpeg-ls" in sys.argv else GROUPS
    cases = [case for group in groups for case in group()]
    counts: dict[str, Counter] = defaultdict(Counter)
    peers, notes, refusals, wrong = Counter(), [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [folder / f"{index}.dcm" for index in range(len(cases))]
        for case, file in zip(cases, files):
            file.write_bytes(case.file)
        for case, file, (line, ours) in zip(cases, files, decoded(pixels, files, folder)):
            verdict, said = judge(case, line, ours, file)
            name = f"{NAMES[case.syntax]}: {case.feature}"
            counts[case.syntax][verdict] += 1
            peers.update(case.peers)
            if verdict == "WRONG":
                wrong.append(f"{name}: {said}")
            elif verdict == "refused":
                refusals.append(f"{name}: {said}")
            elif said:
                notes.append(f"{name}: {said}")
            if verbose:
                print(f"{verdict:8}{name} {said}")
    print(f"{'transfer syntax':28}{'streams':>9}{'exact':>7}{'within':>8}{'refused':>9}{'wrong':>7}")
    total = Counter()
    for syntax, row in sorted(counts.items(), key=lambda pair: NAMES[pair[0]]):
        total += row
        columns = row.total(), row["exact"], row["within"], row["refused"], row["WRONG"]
        print(f"{NAMES[syntax]:28}{columns[0]:9}{columns[1]:7}{columns[2]:8}{columns[3]:9}{columns[4]:7}")
    print(f"{'all':28}{total.total():9}{total['exact']:7}{total['within']:8}{total['refused']:9}{total['WRONG']:7}")
    print("asked of other decoders:", ", ".join(f"{count} of {peer}" for peer, count in peers.items()))
    for title, lines in (("refused, as it should be", refusals), ("other decoders", notes), ("WRONG", wrong)):
        if lines:
            print(f"\n{title}:", *lines, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
