"""DICOM Segmentations are read by those who read them, with the masks that MQTT carried, in the place of their images.

seg.py SCANSIDED BUNDLE NODE_MODULES [FOLDER...]

Each folder, and each phantom of seg_phantoms.py, is delivered with DCMTK's `storescu`, one association each; the daemon sends
the segmentations to DCMTK's `storescp` and writes them to a folder. highdicom, dcmqi, itk-wasm and cornerstone's adapters
(OHIF's) then read each of them: every plane has to have the mask of MQTT, to the pixel, and to lie where its image lies. Where
a reader is known to err (config/daemon.toml says which, at which sizes), the table says so. `dcmdump`, `dciodvfy` (dicom3tools)
and Orthanc take them, too. At the end `scansided doctor` is asked about `storescp`, beside it and without it.
Needs mosquitto, DCMTK, node, pydicom, highdicom, dcmqi, SimpleITK and pycocotools.
"""

import collections
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy
import pydicom
from pycocotools import mask as coco

import seg_phantoms
import seg_readers
from seg_checks import attribute, complaints, doctor, orthanc
from seg_site import Site, header, wait_for

# How many segmentations a series has, and what its events warn of; what is not here has to have one without a word.
EXPECTED = {
    "dwi_multi_b": (3, {}),
    "calcb_missing_slice": (1, {"planes_uneven", "slice_missing"}),
    "siemens_xa10_enhanced_mf": (4, {}),
    "philips_ct_head": (1, {"planes_uneven", "slice_missing"}),
    "btp_mr_t1post": (1, {"planes_uneven", "slice_missing"}),
    # A tilted gantry and two distances.
    "ge_ct_head": (1, {"planes_uneven", "planes_sheared"}),
}
# What a segmentation has in common with its images.
SAME = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "AccessionNumber")
# What is in no message and no log.
PRIVATE = ("PatientName", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


class Frame:
    """A frame of an image, and its mask by MQTT."""

    def __init__(self, image: pydicom.Dataset, number: int, mask: numpy.ndarray) -> None:
        self.image, self.number, self.mask = image, number, mask
        self.series = str(image.SeriesInstanceUID)
        try:
            self.place, self.orientation, self.spacing = geometry(image, number)
        except AttributeError:
            self.place = None

    def described(self) -> dict:
        """For the JavaScript readers."""
        uid, frames = str(self.image.SOPInstanceUID), int(self.image.get("NumberOfFrames", 1))
        return {
            "id": f"x:{uid}" + (f"?frame={self.number}" if "NumberOfFrames" in self.image else ""),
            "uid": uid,
            "series": self.series,
            "space": str(self.image.get("FrameOfReferenceUID", "")),
            "position": self.place,
            "orientation": self.orientation,
            "spacing": self.spacing,
            "rows": self.image.Rows,
            "cols": self.image.Columns,
            "frames": frames,
        }


def carried(site: Site, n_classes: int) -> dict[tuple[str, int], list[Frame]]:
    """What was delivered, by instance and frame from 1: one each, unless two images claim one UID."""
    frames = collections.defaultdict(list)
    kept = site.kept()
    for result in site.messages("result/"):
        image = kept[result["image"]["sha256"]]
        shape = (image.Rows, image.Columns, n_classes)
        masks = [numpy.zeros(shape, numpy.uint8) for _ in range(result["image"]["frames"])]
        for instance in result["instances"]:
            rle = {**instance["mask"], "counts": instance["mask"]["counts"].encode()}
            masks[instance["frame"]][:, :, instance["id"] - 1] = coco.decode(rle)
        for number, mask in enumerate(masks, 1):
            frames[str(image.SOPInstanceUID), number].append(Frame(image, number, mask))
    return frames


def geometry(image: pydicom.Dataset, frame: int) -> tuple:
    """Position, orientation and spacing of a frame, from 1, of an image or a segmentation."""
    def group(name: str):
        for sequence, index in (("PerFrameFunctionalGroupsSequence", frame - 1), ("SharedFunctionalGroupsSequence", 0)):
            item = image[sequence].value[index] if sequence in image else {}
            if name in item:
                return item[name].value[0]
        return image

    numbers = [
        group("PlanePositionSequence").ImagePositionPatient,
        group("PlaneOrientationSequence").ImageOrientationPatient,
        group("PixelMeasuresSequence").PixelSpacing,
    ]
    return tuple(tuple(float(value) for value in value) for value in numbers)


def source_frames(seg: pydicom.Dataset, frames: dict) -> list[Frame]:
    """Of each frame of a segmentation, by its reference alone; of two images of one UID the one in its place."""
    found = []
    for number, group in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        claims = frames[reference.ReferencedSOPInstanceUID, int(reference.get("ReferencedFrameNumber", 1))]
        here = [frame for frame in claims if "FrameOfReferenceUID" in seg and frame.place == geometry(seg, number)[0]]
        found.append((here or claims)[0])
    return found


def wrong_frames(seg: pydicom.Dataset, sources: list[Frame]) -> int:
    """Frames that do not lie where their images do, to the last digit, or are of another patient, or out of order."""
    wrong = 0
    order = []
    for number, source in enumerate(sources, 1):
        if "FrameOfReferenceUID" in seg:
            here = geometry(seg, number)
            wrong += here != (source.place, source.orientation, source.spacing)
            wrong += seg.FrameOfReferenceUID != source.image.FrameOfReferenceUID
            content = seg.PerFrameFunctionalGroupsSequence[number - 1].FrameContentSequence[0]
            normal = numpy.cross(here[1][:3], here[1][3:])
            order.append((content.DimensionIndexValues[0], float(normal @ here[0])))
        wrong += any(seg.get(name, "") != source.image.get(name, "") for name in SAME)
    return wrong + (order != sorted(order)) + ("SourceImageSequence" in seg)


def spacing_between_slices(seg: pydicom.Dataset) -> float | None:
    for group in (seg.SharedFunctionalGroupsSequence[0], seg.PerFrameFunctionalGroupsSequence[0]):
        if "PixelMeasuresSequence" in group:
            return group.PixelMeasuresSequence[0].get("SpacingBetweenSlices")
    return None


def volumes_ml(sources: list[Frame]) -> numpy.ndarray:
    """Of an evenly spaced stack: counted voxels."""
    normal = numpy.cross(sources[0].orientation[:3], sources[0].orientation[3:])
    places = [float(normal @ frame.place) for frame in sources]
    distance = (max(places) - min(places)) / (len(set(places)) - 1)
    voxels = sum(frame.mask.sum(axis=(0, 1)) for frame in {id(frame): frame for frame in sources}.values())
    return voxels * sources[0].spacing[0] * sources[0].spacing[1] * distance / 1000


class Checked:
    """A segmentation with what is expected of it."""

    def __init__(self, file: Path, event: dict, frames: dict) -> None:
        self.file, self.event = file, event
        self.seg = pydicom.dcmread(file)
        self.sources = source_frames(self.seg, frames)
        self.series = self.sources[0].series
        volume = event.get("volume", {"number": 1, "of": 1, "by": {}})
        self.name = f"{volume['number']}/{volume['of']} {' '.join(f'{k}={v}' for k, v in volume['by'].items())}"
        self.has_planes = "FrameOfReferenceUID" in self.seg

    def unique(self) -> list[Frame]:
        return list({id(frame): frame for frame in self.sources}.values())

    def job(self, work: Path) -> dict:
        out = work / "read" / self.file.stem
        out.mkdir(parents=True)
        images = [frame.described() for frame in self.unique()]
        return {"seg": str(self.file), "out": str(out), "images": images}

    def faults(self) -> list[str]:
        """Everything but the readers."""
        found = []
        # What is wrong with an image already, its segmentation repeats.
        of_image = complaints(self.sources[0].image.filename)
        inherited = tuple(attribute(line) for line in of_image)
        same_value = {line.split("> - ", 1)[-1] for line in of_image}
        for line in complaints(self.file):
            if not (attribute(line) or "-").startswith(inherited) and line.split("> - ", 1)[-1] not in same_value:
                found.append(line)
        if misplaced := wrong_frames(self.seg, self.sources):
            found.append(f"{misplaced} frames lie elsewhere or are of another patient")
        if len(self.unique()) * len(self.seg.SegmentSequence) != len(self.sources):
            found.append("a slice has no frame, or a place comes twice")
        ml = [volume["volume_ml"] for volume in self.event["volumes"]]
        is_even = not {"planes_uneven", "planes_sheared"} & set(self.event["warnings"])
        if ml and is_even and len(self.unique()) > 1:
            if not numpy.allclose(ml, volumes_ml(self.sources), rtol=0.01):
                found.append(f"{ml} ml, counted {volumes_ml(self.sources)}")
        return found

    def read(self, job: dict, work: Path, table: collections.Counter) -> list[str]:
        """A line of the table, and what is wrong in it."""
        expected = {seg_readers.position(frame.place): frame.mask for frame in self.unique()}
        px = sum(int(mask.sum()) for mask in expected.values())
        table.update(pixels=px, planes=len(expected))
        found, cells = [], []
        for name, planes in seg_readers.answers(job, len(self.seg.SegmentSequence), work).items():
            wrong = seg_readers.compare(planes, expected)
            # No grid of upright layers holds such planes; the adapters go by the images.
            is_no_grid = name != "adapters" and "planes_sheared" in self.event["warnings"]
            if wrong and not is_no_grid and not seg_readers.may_err(name, self.seg):
                found.append(f"{name}: {wrong}")
            cells.append(f"{name} {'ok' if not wrong else 'ERRS, as said' if name not in str(found) else 'FAILED'}")
            table[name] += px if not wrong else 0
        size = f"{self.seg.Rows}x{self.seg.Columns}x{len(expected)}"
        step = spacing_between_slices(self.seg)
        print(f"  {self.name:44} {size:13} step {step}: {px} px; " + "; ".join(cells))
        return found


def by_series(checked: list[Checked], delivered: dict[str, list[Path]]) -> list[str]:
    """What is wrong with the number of segmentations, their warnings, and the frames that are in none."""
    wrong = []
    for name, files in delivered.items():
        series = {str(header(file).SeriesInstanceUID) for file in files}
        segs = [one for one in checked if one.series in series]
        n_segs, warnings = EXPECTED.get(name) or seg_phantoms.EXPECTED.get(name) or (len(series), {})
        said = {word for one in segs for word in one.event["warnings"]}
        if len(segs) != n_segs or said != set(warnings):
            wrong.append(f"{name}: {len(segs)} segmentations, {sorted(said)}; expected {n_segs}, {sorted(warnings)}")
        n_frames = sum(int(header(file).get("NumberOfFrames", 1)) for file in files)
        left_out = sum(one.event.get("warned_images", {}).get("uid_shared", 0) for one in segs)
        n_held = sum(len(one.unique()) for one in segs)
        if n_held + left_out != n_frames:
            wrong.append(f"{name}: {n_held} of {n_frames} frames are in a segmentation, {left_out} were said to be left out")
    return wrong


def announced(site: Site) -> list[dict] | None:
    """The events, once each image is in one or was said to be in none."""
    events = [event for event in site.messages("event") if event["event"] == "series"]
    jobs = {job for event in events for job in event["jobs"]}
    left_out = sum(event.get("warned_images", {}).get("uid_shared", 0) for event in events)
    wanted = {result["job_id"] for result in site.messages("result/") if "no_segmentation" not in result["warnings"]}
    site.waits = f"{len(wanted - jobs)} images are in no event, {left_out} of them left out by a warning"
    return events if len(wanted - jobs) <= left_out else None


def check(site: Site, bundle: Path, node_modules: Path, delivered: dict[str, list[Path]]) -> list[str]:
    n_images = sum(len(files) for files in delivered.values())
    wait_for("every result", lambda: len(site.messages("result/")) == n_images)
    events = wait_for("an event for each image", lambda: announced(site), why=lambda: site.waits)
    written = sorted((site.work / "segmentations").glob("*.dcm"))
    stored = wait_for(
        "the PACS", lambda: found if len(found := list((site.work / "pacs").iterdir())) >= len(written) else None
    )
    print(f"{n_images} images of {len(delivered)} deliveries; {len(written)} segmentations, {len(stored)} sent")
    failed = [] if len(events) == len(written) == len(stored) else [f"{len(events)} events"]
    frames = carried(site, len(json.loads((bundle / "manifest.json").read_text())["classes"]))
    by_id = {event["series"].replace("-", ""): event for event in events}
    checked = [Checked(file, by_id[f"{int(file.stem.removeprefix('2.25.')):032x}"], frames) for file in written]
    failed += by_series(checked, delivered)
    failed += orthanc(site.work, written)
    jobs = {one.file: one.job(site.work) for one in checked if one.has_planes}
    seg_readers.javascript(list(jobs.values()), node_modules, site.work)
    names = {str(header(files[0]).SeriesInstanceUID): name for name, files in delivered.items()}
    table = collections.Counter()
    last = ""
    for one in sorted(checked, key=lambda one: (names.get(one.series, ""), one.event.get("volume", {}).get("number", 0))):
        name = names.get(one.series, "another series")
        if name != last:
            print(f"{name} {one.event['warnings']}")
            last = name
        wrong = one.faults()
        if one.has_planes:
            wrong += one.read(jobs[one.file], site.work, table)
        failed += [f"{name} {one.name}: {words}" for words in wrong]
    print(f"px that MQTT carried, and that each reader gives as it did: {dict(table)}")
    if table["pixels"] == 0:
        failed.append("nothing was found in any image, so nothing was compared")
    if sorted(digest(file) for file in written) != sorted(digest(file) for file in stored):
        failed.append("the PACS has other pixels than the folder")
    return failed + leaks(site, [frame.image for same in frames.values() for frame in same])


def leaks(site: Site, images: list[pydicom.Dataset]) -> list[str]:
    private = {str(image.get(name)) for image in images for name in PRIVATE if image.get(name)}
    said = (site.work / "received.log").read_text() + (site.work / "daemon.log").read_text()
    return [f"{word} left the box" for word in sorted(private) if word in said][:1]


def main() -> int:
    scansided, bundle, node_modules, *folders = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        site = Site(work, scansided, bundle)
        with site.children:
            paths = [*map(Path, folders), *seg_phantoms.write(work / "phantoms")]
            delivered = {path.name: site.deliver(path) for path in paths}
            failed = check(site, Path(bundle), Path(node_modules), delivered)
            failed += doctor(site)
        if failed:
            print((work / "daemon.log").read_text()[-3000:])
    for failure in failed:
        print(f"FAILED: {failure}")
    print(f"highdicom {highdicom.__version__}, pydicom {pydicom.__version__}")
    return 1 if failed else 0


def digest(file: Path) -> str:
    seg = pydicom.dcmread(file)
    return hashlib.sha256(seg.SOPInstanceUID.encode() + seg.PixelData).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
