"""Segmentations as their readers see them: masks by position.

A reader gives {(x, y, z): rows x columns x classes}, one entry for each plane of its volume, or says why it gives nothing.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy
import pydicom
import SimpleITK

PYTHON_BIN = Path(sys.executable).parent
# Of the distance between planes: further away is another place.
NEAR = 0.02


class Unread(Exception):
    pass


def by_highdicom(seg: Path, n_classes: int) -> dict:
    try:
        volume = highdicom.seg.segread(seg).get_volume(combine_segments=False, allow_missing_positions=True)
    except (RuntimeError, ValueError) as error:
        raise Unread(str(error)) from error
    array = volume.array.reshape(*volume.spatial_shape, n_classes)
    return {position(volume.affine @ [k, 0, 0, 1]): array[k] for k in range(array.shape[0])}


def by_dcmqi(seg: Path, n_classes: int, work: Path) -> dict:
    out = work / "dcmqi"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [PYTHON_BIN / "segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", out, "--outputType", "nrrd"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode != 0:
        raise Unread((said.stderr + said.stdout)[-200:])
    planes: dict = {}
    for segment in range(n_classes):
        file = out / f"{segment + 1}.nrrd"
        if not file.exists():
            raise Unread((said.stderr + said.stdout).strip()[-200:])
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image)
        for k in range(array.shape[0]):
            place = position(image.TransformIndexToPhysicalPoint((0, 0, k)))
            plane = planes.setdefault(place, numpy.zeros((*array.shape[1:], n_classes), numpy.uint8))
            plane[:, :, segment] = array[k] != 0
    return planes


def by_itk(out: Path, answer: dict, n_classes: int) -> dict:
    cols, rows, n = answer["size"]
    array = numpy.fromfile(out / "itk.raw", numpy.uint8).reshape(n, rows, cols)
    direction = numpy.array(answer["direction"]).reshape(3, 3)
    step = direction[:, 2] * answer["spacing"][2]
    return {position(numpy.array(answer["origin"]) + k * step): by_class(array[k], n_classes) for k in range(n)}


def by_adapters(out: Path, images: list[dict], n_classes: int) -> dict:
    """By image, which is what the adapters give; images without a place are numbered."""
    rows, cols = images[0]["rows"], images[0]["cols"]
    array = numpy.fromfile(out / "adapters.raw", numpy.uint8).reshape(len(images), rows, cols)
    return {position(image["position"]): by_class(labels, n_classes) for image, labels in zip(images, array)}


def by_class(labels: numpy.ndarray, n_classes: int) -> numpy.ndarray:
    return (labels[:, :, None] == numpy.arange(1, n_classes + 1)).astype(numpy.uint8)


def position(numbers) -> tuple:
    return tuple(round(float(number), 4) for number in numbers[:3])


def javascript(jobs: list[dict], node_modules: Path, work: Path) -> None:
    """Both JavaScript readers on all jobs, in one process."""
    (work / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("seg_readers.mjs")
    command = ["node", script, node_modules, work / "jobs.json"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode != 0:
        raise SystemExit(f"FAILED: the JavaScript readers end with {said.returncode}: {said.stderr[-2000:]}")


def answers(job: dict, n_classes: int, work: Path) -> dict:
    """Reader -> its planes, or an `Unread`."""
    out, seg = Path(job["out"]), Path(job["seg"])
    answer = json.loads((out / "answer.json").read_text())

    def said(name: str) -> dict:
        if "error" in answer[name]:
            raise Unread(answer[name]["error"])
        return answer[name]

    readers = {
        "highdicom": lambda: by_highdicom(seg, n_classes),
        "dcmqi": lambda: by_dcmqi(seg, n_classes, work),
        "itk-wasm": lambda: by_itk(out, said("itk"), n_classes),
        "adapters": lambda: said("adapters") and by_adapters(out, job["images"], n_classes),
    }
    found = {}
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except Unread as unread:
            found[name] = unread
    return found


def compare(planes: dict | Unread, expected: dict) -> str:
    """Empty where the planes are those of MQTT, in their places, and nothing is anywhere else."""
    if isinstance(planes, Unread):
        return f"not read: {planes}"
    places = numpy.array(list(planes))
    masks = list(planes.values())
    step = numpy.linalg.norm(places[1] - places[0]) if len(places) > 1 else 1.0
    used = set()
    wrong, misplaced = 0, 0
    for place, mask in expected.items():
        distances = numpy.linalg.norm(places - numpy.array(place), axis=1)
        nearest = int(distances.argmin())
        if distances[nearest] > max(NEAR * step, 0.02):
            misplaced += 1
            continue
        used.add(nearest)
        wrong += not numpy.array_equal(masks[nearest], mask)
    elsewhere = sum(int(mask.sum()) for index, mask in enumerate(masks) if index not in used)
    if wrong or misplaced or elsewhere:
        return f"{wrong} planes differ, {misplaced} have no plane, {elsewhere} px lie elsewhere"
    return ""


def may_err(name: str, seg: pydicom.Dataset) -> bool:
    """Sizes at which a reader shifts or refuses frames whose bits begin within a byte, see config/daemon.toml."""
    pixels, frames = seg.Rows * seg.Columns, int(seg.NumberOfFrames)
    if name == "itk-wasm":
        return frames > 1 and pixels % 8 in (3, 5, 6, 7)
    if name == "adapters" and pixels * frames % 16:
        n_bytes = -(-pixels * frames // 8)
        return n_bytes % 2 == 1 or (frames > 1 and n_bytes == frames * -(-pixels // 8))
    return False
