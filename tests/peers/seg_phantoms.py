"""Series of drawn hearts, each a kind of series that readers of segmentations get wrong."""

from pathlib import Path

import numpy
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
AXIAL = [1, 0, 0, 0, 1, 0]
OBLIQUE = [0.935897, 0.352274, 0, -0.286709, 0.761706, -0.581035]
# Segmentations, and words of their events.
EXPECTED = {
    "size_181x217": (1, {"frame_size_misread"}),
    "size_250x250": (1, {"frame_size_misread"}),
    "size_255x255": (1, {"frame_size_misread"}),
    "echoes": (2, {}),
    "cine": (3, {"volumes_by_order"}),
    "hole": (1, {"planes_uneven", "slice_missing"}),
    "uneven": (1, {"planes_uneven"}),
    "localizer": (3, {}),
    "letters": (1, {"uid_invalid"}),
    "shared_uid": (1, {"uid_shared", "planes_uneven", "slice_missing"}),
    "sizes": (2, {"images_differ"}),
    "without_planes": (1, {"planes_unknown"}),
}


def heart(rows: int, cols: int, seed: int) -> numpy.ndarray:
    """A bright cavity in a dark muscle, larger or smaller from slice to slice."""
    noise = numpy.random.default_rng(seed).normal(0, 12, (rows, cols))
    y, x = numpy.mgrid[:rows, :cols]
    scale = min(rows, cols)
    radius = numpy.hypot(y - 0.52 * rows, x - 0.47 * cols) / scale
    cavity = 0.10 + 0.012 * (seed % 4)
    picture = numpy.where(radius < 0.45, 250, 60)
    picture = numpy.where(radius < cavity + 0.05, 120, picture)
    picture = numpy.where(radius < cavity, 700, picture)
    return (picture + noise).clip(0).astype(numpy.uint16)


class Series:
    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.number, self.n = folder, number, 0

    def add(self, position, orientation=AXIAL, size=(128, 128), **more) -> Dataset:
        """One image of one frame; `more`: attributes by keyword, None for one that is not there."""
        self.n += 1
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = EXPLICIT
        meta.MediaStorageSOPClassUID = MR
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.Modality = MR, "MR"
        image.SOPInstanceUID = f"2.25.7700{self.number:02}{self.n:03}"
        image.StudyInstanceUID = f"2.25.8800{self.number:02}"
        image.SeriesInstanceUID = f"2.25.9900{self.number:02}"
        image.FrameOfReferenceUID = f"2.25.6600{self.number:02}"
        image.PatientName, image.PatientID = f"Phantom^Number{self.number}", f"PHANTOM-{self.number}"
        image.PatientBirthDate, image.PatientSex, image.StudyDate, image.StudyTime = "", "O", "20260101", "120000"
        image.AccessionNumber, image.ReferringPhysicianName, image.StudyID = "", "", "1"
        image.SeriesNumber, image.InstanceNumber, image.PositionReferenceIndicator = 1, self.n, ""
        image.Laterality, image.Manufacturer = "", "Phantom"
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "GR", "SS", "", "2D"
        image.EchoTime, image.EchoTrainLength, image.RepetitionTime = "3", "", "30"
        image.PatientPosition = "HFS"
        image.ImagePositionPatient, image.ImageOrientationPatient = list(position), list(orientation)
        image.PixelSpacing, image.SliceThickness = ["1.40625", "1.40625"], "5"
        image.Rows, image.Columns = size
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = heart(*size, seed=self.n).tobytes()
        for keyword, value in more.items():
            if value is None:
                del image[keyword]
            else:
                setattr(image, keyword, value)
        meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(self.folder / f"{self.n}.dcm", enforce_file_format=True)
        return image


def along(normal_of, distance: float, start=(-90.25, -80.5, 3.125)) -> list[str]:
    normal = numpy.cross(normal_of[:3], normal_of[3:])
    return [f"{value:.6f}" for value in numpy.array(start) + distance * normal]


def write(folder: Path) -> list[Path]:
    made = []

    def series(name: str) -> Series:
        made.append(Series(folder / name, len(made) + 1))
        return made[-1]

    for rows, cols, n in ((181, 217, 3), (250, 250, 2), (255, 255, 3)):
        sized = series(f"size_{rows}x{cols}")
        for k in range(n):
            sized.add([0, 0, 8 * k], size=(rows, cols))
    echoes = series("echoes")
    for k in range(3):
        for echo in (1, 2):
            echoes.add(along(OBLIQUE, 7.5 * k), OBLIQUE, EchoTime=f"{echo * 4.6:.1f}", EchoNumbers=echo)
    cine = series("cine")
    for k in range(3):
        for phase in range(3):
            cine.add([0, 0, 8 * k], TriggerTime=f"{phase * 33.1 + k * 1.7:.2f}")
    hole = series("hole")
    for k in (0, 1, 3, 4):
        hole.add(along(OBLIQUE, -6.5 * k), OBLIQUE, SliceThickness="5")
    uneven = series("uneven")
    for z in (0, 6, 12, 22, 32):
        uneven.add([0, 0, z])
    # Slices of 5 mm, 6.5 mm apart, which only their positions say; numbered against their order.
    apart = series("apart")
    for k in range(4):
        apart.add(along(OBLIQUE, -6.5 * k), OBLIQUE)
    localizer = series("localizer")
    for orientation in (AXIAL, [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]):
        for k in range(2):
            localizer.add(along(orientation, 20 * k), orientation)
    letters = series("letters")
    for k in range(3):
        letters.add([0, 0, 8 * k], SeriesInstanceUID="2.25.ANON-77")
    shared = series("shared_uid")
    for k in range(5):
        shared.add([0, 0, 8 * k], **({"SOPInstanceUID": "2.25.770099999"} if k in (1, 2) else {}))
    sizes = series("sizes")
    for k in range(4):
        sizes.add([0, 0, 8 * k], size=(128, 128) if k < 2 else (96, 112))
    series("one").add([1.5, -2, 77])
    flat = series("without_planes")
    for _ in range(2):
        flat.add([0, 0, 0], ImagePositionPatient=None)
    return [one.folder for one in made]
