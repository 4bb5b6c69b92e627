#!/usr/bin/env bash
# A DICOM Segmentation without Spacing Between Slices is laid by dcmqi on a grid of its Slice Thickness, whatever the
# positions of its frames say: slices vanish or merge, with exit status 0.
#
# Seen with dcmqi 1.5.7, highdicom 0.28.2 and pydicom 3.0.2: ten frames 3 mm apart, of 2, 4, ... 20 pixels, Slice Thickness
# 5 mm, come back as 6 slices of 5 mm. With Spacing Between Slices of 3 mm they are the ten that they were.
# What it means here: a segmentation has a frame for every slice and says the true distance between them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 pydicom==3.0.2 highdicom==0.28.2 dcmqi==1.5.7 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PY'
import pathlib
import subprocess
import sys

import highdicom
import numpy
import pydicom
import SimpleITK
from highdicom.sr.coding import CodedConcept

folder = pathlib.Path(sys.argv[1])


def source(k, series, study, space):
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image.SOPClassUID = pydicom.uid.CTImageStorage
    image.SOPInstanceUID = pydicom.uid.generate_uid()
    image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, space
    image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "1", "Test^Case", "", ""
    image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "20260101", "000000", "", "1"
    image.ReferringPhysicianName, image.Modality, image.InstanceNumber, image.SeriesNumber = "", "CT", k + 1, 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], 5
    image.Rows = image.Columns = 16
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = bytes(512)
    return image


uids = [pydicom.uid.generate_uid() for _ in range(3)]
images = [source(k, *uids) for k in range(10)]
mask = numpy.zeros((10, 16, 16), numpy.uint8)
for k in range(10):
    mask[k].flat[: 2 * (k + 1)] = 1
concept = CodedConcept("85756007", "SCT", "Tissue")
segment = highdicom.seg.SegmentDescription(1, "tissue", concept, concept, "AUTOMATIC",
    highdicom.AlgorithmIdentificationSequence("a", CodedConcept("113076", "DCM", "Segmentation"), "1"))
seen = []
for spaced in (False, True):
    seg = highdicom.seg.Segmentation(images, mask, "BINARY", [segment], pydicom.uid.generate_uid(), 2,
        pydicom.uid.generate_uid(), 1, "Maker", "Model", "1", "1")
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if spaced:
        measures.SpacingBetweenSlices = 3
    elif "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    measures.SliceThickness = 5
    path = folder / f"{spaced}.dcm"
    seg.save_as(path)
    out = folder / str(spaced)
    out.mkdir()
    program = pathlib.Path(sys.executable).with_name("segimage2itkimage")
    subprocess.run([program, "--inputDICOM", path, "--outputDirectory", out, "-t", "nifti"], check=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    volume = SimpleITK.ReadImage(str(next(out.glob("*.nii.gz"))))
    areas = sorted(int(area) for area in (SimpleITK.GetArrayFromImage(volume) > 0).sum(axis=(1, 2)))
    seen.append((volume.GetSize()[2], round(volume.GetSpacing()[2], 3), areas))
    print("with" if spaced else "without", "Spacing Between Slices:", *seen[-1])
expected = [(6, 5.0), (10, 3.0)]
good = [row[:2] for row in seen] == expected and seen[1][2] == list(range(2, 21, 2)) and sum(seen[0][2]) < 110
sys.exit(0 if good else "this is not what was seen")
PY
