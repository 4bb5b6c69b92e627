"""DICOM Segmentations of real series are taken by those who read them, with the masks that MQTT carried.

seg.py SCANSIDED BUNDLE [FOLDER...]

Each folder is delivered with DCMTK's `storescu`, one association a folder; the daemon sends the segmentations to DCMTK's
`storescp` and writes them to a folder. Each then goes through `dcmdump` and, where they are installed, `dciodvfy`
(dicom3tools) and Orthanc; pydicom and highdicom read it, and highdicom's masks have to be those of MQTT to the pixel. At the
end `scansided doctor` is asked about `storescp`, beside it and without it.
Needs mosquitto, DCMTK, pydicom, highdicom and pycocotools.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import highdicom
import numpy
import pydicom
from pycocotools import mask as coco

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
PATIENCE = 300
# What a segmentation has in common with its images.
SAME = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "AccessionNumber")
# What is in no message and no log.
PRIVATE = ("PatientName", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, done, patience: float = PATIENCE):
    end = time.monotonic() + patience
    while not (result := done()):
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: {what} did not happen in {patience} s")
        time.sleep(0.1)
    return result


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Site:
    """Broker, subscriber, PACS and daemon below one folder; all end with it."""

    def __init__(self, work: Path, scansided: str, bundle: str) -> None:
        self.work = work
        self.children = contextlib.ExitStack()
        self.port, self.pacs_port, broker_port = free_port(), free_port(), free_port()
        for name in ("inbox", "segmentations", "pacs"):
            (work / name).mkdir()
        (work / "mosquitto.conf").write_text(
            f"listener {broker_port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n"
        )
        path = os.environ["PATH"] + ":/usr/sbin"
        self.start([shutil.which("mosquitto", path=path), "-c", work / "mosquitto.conf"], "mosquitto")
        wait_for("the broker", lambda: listens(broker_port))
        listen = ["mosquitto_sub", "-p", str(broker_port), "-V", "5", "-q", "1", "-F", "%t %p"]
        self.start([*listen, "-t", "scanside/v1/box-1/#"], "received")
        self.pacs = self.start(["storescp", "-aet", "PACS", "-od", work / "pacs", str(self.pacs_port)], "storescp")
        (work / "daemon.toml").write_text(
            f"""node = "box-1"
[model]
bundle = "{Path(bundle).resolve()}"
[state]
directory = "state"
min_free_bytes = 0
keep_inputs_days = 1
[[folder]]
name = "inbox"
directory = "inbox"
[[dicom]]
name = "scanner"
port = {self.port}
[mqtt]
host = "127.0.0.1"
port = {broker_port}
[seg]
directory = "segmentations"
quiet_s = 10
[seg.send_to]
host = "127.0.0.1"
port = {self.pacs_port}
called_ae_title = "PACS"
"""
        )
        wait_for("the PACS", lambda: listens(self.pacs_port))
        self.scansided = scansided
        self.daemon = self.start([scansided, "run", "--config", work / "daemon.toml"], "daemon")
        wait_for("the daemon", lambda: " ready" in (work / "daemon.log").read_text())

    def start(self, command: list, name: str) -> subprocess.Popen:
        log = (self.work / f"{name}.log").open("wb")
        child = subprocess.Popen(command, stdout=log, stderr=log)
        self.children.callback(child.wait)
        self.children.callback(child.kill)
        return child

    def deliver(self, folder: Path) -> list[Path]:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and is_image(file)]
        command = ["storescu", "-aet", "CT1", "-aec", "SCANSIDE", "127.0.0.1", str(self.port)]
        sent = subprocess.run([*command, *files], capture_output=True, text=True)
        if sent.returncode != 0:
            raise SystemExit(f"FAILED: {folder} was not delivered: {sent.stderr}")
        return files

    def messages(self, word: str) -> list[dict]:
        """Payloads of results or of events, a copy of a job once."""
        found = {}
        for line in (self.work / "received.log").read_text().splitlines():
            topic, payload = line.split(" ", 1)
            if f"/{word}" in topic:
                message = json.loads(payload)
                found[message["seq"]] = message
        return list(found.values())

    def doctor(self) -> tuple[int, str]:
        """Exit code and what it says of the PACS, beside the daemon."""
        command = [self.scansided, "doctor", "--config", self.work / "daemon.toml"]
        said = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in said.stdout.splitlines() if " seg: PACS at " in line and "C-ECHO" in line]
        return said.returncode, "\n".join(lines) or said.stdout + said.stderr

    def kept(self) -> dict[str, pydicom.Dataset]:
        """Headers of what was delivered, by the digest that results carry."""
        files = (self.work / "state" / "kept").iterdir()
        return {hashlib.sha256(file.read_bytes()).hexdigest(): header(file) for file in files}


def header(file: Path) -> pydicom.Dataset | None:
    try:
        return pydicom.dcmread(file, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError:
        return None


def is_image(file: Path) -> bool:
    read = header(file)
    return read is not None and "Rows" in read


def carried(site: Site, n_classes: int) -> dict[tuple[str, int], numpy.ndarray]:
    """Masks of MQTT, rows x columns x classes, by instance and frame from 1."""
    masks = {}
    kept = site.kept()
    for result in site.messages("result/"):
        image = result["image"]
        uid = str(kept[image["sha256"]].SOPInstanceUID)
        for frame in range(image["frames"]):
            shape = (image["rows"], image["cols"], n_classes)
            masks[uid, frame + 1] = numpy.zeros(shape, numpy.uint8)
        for instance in result["instances"]:
            mask = coco.decode({**instance["mask"], "counts": instance["mask"]["counts"].encode()})
            masks[uid, instance["frame"] + 1][:, :, instance["id"] - 1] = mask
    return masks


def read(file: Path, sources: dict[str, pydicom.Dataset]) -> dict[tuple[str, int], numpy.ndarray]:
    """Masks of a segmentation as highdicom sees them, by instance and frame from 1."""
    seg = highdicom.seg.segread(file)
    (series,) = seg.ReferencedSeriesSequence
    uids = [str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence]
    flags = {"assert_missing_frames_are_empty": True, "ignore_spatial_locations": False}
    found = {}
    single = [uid for uid in uids if "NumberOfFrames" not in sources[uid]]
    if single:
        pixels = seg.get_pixels_by_source_instance(single, **flags)
        found |= {(uid, 1): plane for uid, plane in zip(single, pixels)}
    for uid in set(uids) - set(single):
        frames = list(range(1, int(sources[uid].NumberOfFrames) + 1))
        pixels = seg.get_pixels_by_source_frame(uid, frames, **flags)
        found |= {(uid, frame): plane for frame, plane in zip(frames, pixels)}
    return found


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


def wrong_frames(seg: pydicom.Dataset, sources: dict[str, pydicom.Dataset]) -> int:
    """Frames that do not lie where their images do."""
    wrong = 0
    for number, group in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        image = sources[source.ReferencedSOPInstanceUID]
        frame = int(source.get("ReferencedFrameNumber", 1))
        if "FrameOfReferenceUID" in seg:
            wrong += geometry(seg, number) != geometry(image, frame)
            wrong += seg.FrameOfReferenceUID != image.FrameOfReferenceUID
        wrong += any(seg.get(name, "") != image.get(name, "") for name in SAME)
    return wrong


def volumes_ml(seg: pydicom.Dataset, masks: dict, sources: dict[str, pydicom.Dataset]) -> numpy.ndarray:
    """Of an evenly spaced stack: counted voxels."""
    (series,) = seg.ReferencedSeriesSequence
    places, voxels, pixel = [], 0, 0
    for item in series.ReferencedInstanceSequence:
        image = sources[item.ReferencedSOPInstanceUID]
        for frame in range(1, int(image.get("NumberOfFrames", 1)) + 1):
            position, orientation, spacing = geometry(image, frame)
            normal = numpy.cross(orientation[:3], orientation[3:])
            places.append(float(normal @ position))
            voxels = voxels + masks[str(image.SOPInstanceUID), frame].sum(axis=(0, 1))
            pixel = spacing[0] * spacing[1]
    distance = (max(places) - min(places)) / (len(places) - 1)
    return voxels * pixel * distance / 1000


def orthanc(work: Path, files: list[Path]) -> list[str]:
    program = shutil.which("Orthanc", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        print("NOT TESTED: Orthanc is not installed")
        return []
    dicom_port, http_port = free_port(), free_port()
    folder = work / "orthanc"
    folder.mkdir()
    settings = {
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "RemoteAccessAllowed": False,
        "Plugins": [],
    }
    (work / "orthanc.json").write_text(json.dumps(settings))
    log = (work / "orthanc.log").open("wb")
    server = subprocess.Popen([program, work / "orthanc.json"], stdout=log, stderr=log)
    try:
        wait_for("Orthanc", lambda: listens(dicom_port) and listens(http_port))
        send = ["storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", str(dicom_port), *files]
        if subprocess.run(send).returncode != 0:
            return ["Orthanc does not take the segmentations"]

        def ask(path: str):
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port}/{path}", timeout=30) as answer:
                return json.load(answer)

        tags = [ask(f"instances/{name}/simplified-tags") for name in ask("instances")]
        n_good = sum(tag["Modality"] == "SEG" and tag["SOPClassUID"] == SEGMENTATION for tag in tags)
        print(f"Orthanc {ask('system')['Version']}: {n_good} segmentations stored")
        return [] if n_good == len(files) else [f"Orthanc has {n_good} of {len(files)} segmentations"]
    finally:
        server.terminate()
        server.wait()


def complaints(file: Path | str) -> list[str]:
    """What DCMTK and, where it is there, dciodvfy find wrong with a file."""
    dump = subprocess.run(["dcmdump", "-q", file], capture_output=True, text=True)
    found = dump.stderr.splitlines()
    if shutil.which("dciodvfy"):
        checked = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True).stderr
        found += [line for line in checked.splitlines() if line.startswith("Error")]
    return found


def attribute(complaint: str) -> str:
    """Name of the attribute that a line of dciodvfy is about."""
    found = re.search(r"</?([A-Za-z]+)", complaint)
    return found.group(1) if found else complaint


def doctor(site: Site) -> list[str]:
    """What is wrong with what the doctor says while the PACS answers, and once it is gone. Ends the PACS."""
    wrong = []
    place = f"seg: PACS at 127.0.0.1:{site.pacs_port}"
    status, said = site.doctor()
    print(f"doctor beside storescp: {said}")
    if status != 0 or re.fullmatch(rf"ok    {place} answers C-ECHO after \d+ ms", said) is None:
        wrong.append(f"the doctor leaves with {status} and says of a PACS that answers: {said}")
    site.pacs.kill()
    site.pacs.wait()
    status, said = site.doctor()
    print(f"doctor without it: {said}")
    if status != 1 or not said.startswith(f"FAIL  {place}: C-ECHO: ") or "check host, port" not in said:
        wrong.append(f"the doctor leaves with {status} and says of a PACS that is gone: {said}")
    return wrong


def main() -> int:
    scansided, bundle, *folders = sys.argv[1:]
    classes = json.loads((Path(bundle) / "manifest.json").read_text())["classes"]
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        site = Site(work, scansided, bundle)
        with site.children:
            images = [file for folder in folders for file in site.deliver(Path(folder))]
            wait_for("every result", lambda: len(site.messages("result/")) == len(images))
            expected = {
                (str(image.SeriesInstanceUID), image.Rows, image.Columns, str(image.get("FrameOfReferenceUID")))
                for image in map(header, images)
            }
            events = wait_for(
                "an event for each series", lambda: found if len(found := series(site)) >= len(expected) else None
            )
            written = sorted((work / "segmentations").glob("*.dcm"))
            stored = wait_for(
                "the PACS", lambda: found if len(found := list((work / "pacs").iterdir())) >= len(written) else None
            )
            print(f"{len(images)} images of {len(expected)} series; {len(written)} segmentations, {len(stored)} sent")
            if not len(expected) == len(events) == len(written) == len(stored):
                failed.append("it is not one segmentation for each series")
            sources = {str(image.SOPInstanceUID): image for image in site.kept().values()}
            masks = carried(site, len(classes))
            failed += orthanc(work, written)
            by_id = {event["series"].replace("-", ""): event for event in events}
            tally = collections.Counter()
            for file in written:
                seg = pydicom.dcmread(file)
                event = by_id[f"{int(file.stem.removeprefix('2.25.')):032x}"]
                # What is wrong with an image already, its segmentation repeats.
                (referenced,) = seg.ReferencedSeriesSequence
                image = sources[referenced.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID]
                inherited = tuple(attribute(line) for line in complaints(image.filename))
                for line in complaints(file):
                    if attribute(line) and attribute(line).startswith(inherited):
                        tally.update(inherited=1)
                    else:
                        failed.append(f"{file.name}: {line}")
                shape = (int(seg.NumberOfFrames), seg.Rows, seg.Columns)
                if seg.pixel_array.reshape(shape).shape != shape:
                    failed.append(f"{file.name}: pydicom reads other frames")
                found = read(file, sources)
                different = sum(not numpy.array_equal(masks[key], plane) for key, plane in found.items())
                misplaced = wrong_frames(seg, sources)
                tally.update(planes=len(found), frames=shape[0], pixels=int(sum(p.sum() for p in found.values())))
                ml = [volume["volume_ml"] for volume in event["volumes"]]
                if ml and not event["warnings"] and len(found) > 1:
                    tally.update(volumes=1)
                    if not numpy.allclose(ml, volumes_ml(seg, masks, sources), rtol=0.01):
                        failed.append(f"{file.name}: {ml} ml, counted {volumes_ml(seg, masks, sources)}")
                if different or misplaced:
                    failed.append(f"{file.name}: {different} planes differ from MQTT, {misplaced} lie elsewhere")
                print(f"  {len(found)} planes, {shape[0]} frames, {event['warnings']} {ml} ml")
            if sorted(digest(file) for file in written) != sorted(digest(file) for file in stored):
                failed.append("the PACS has other pixels than the folder")
            failed += doctor(site)
            print(f"highdicom {highdicom.__version__} reads what MQTT carried: {dict(tally)}")
            if tally["pixels"] == 0:
                failed.append("nothing was found in any image, so nothing was compared")
            private = {str(image.get(name)) for image in sources.values() for name in PRIVATE if image.get(name)}
            said = (work / "received.log").read_text() + (work / "daemon.log").read_text()
            failed += [f"a {name} left the box" for name in PRIVATE if any(word in said for word in private)][:1]
        if failed:
            print((work / "daemon.log").read_text()[-3000:])
    for failure in failed:
        print(f"FAILED: {failure}")
    return 1 if failed else 0


def series(site: Site) -> list[dict]:
    return [event for event in site.messages("event") if event["event"] == "series"]


def digest(file: Path) -> str:
    seg = pydicom.dcmread(file)
    return hashlib.sha256(seg.SOPInstanceUID.encode() + seg.PixelData).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
