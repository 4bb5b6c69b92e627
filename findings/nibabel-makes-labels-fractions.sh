#!/usr/bin/env bash
# Labels that are kept as floating-point numbers and saved under an integer header come back a little too small, so that
# the usual cast to integers empties the mask.
#
# Seen with nibabel 5.4.2 and numpy 2.4.6: nibabel chooses a slope for the range of the values, and reads 0.9999999997671694
# for label 1 (int16) and 0.9961 (uint8, labels up to 2); `astype(numpy.uint8)` makes 0 of both, so that all 9 and all 8
# voxels of label 1 are gone. SimpleITK 2.5.7, asked for UInt8, loses those of the second file too.
# What it means here: labels are scaled in double precision and rounded, and refused where they lie far from a whole number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys

import nibabel
import numpy
import SimpleITK

folder = sys.argv[1]
counts = []
for dtype, highest in ((numpy.int16, 1), (numpy.uint8, 2)):
    labels = numpy.zeros((4, 4, 4), numpy.float32)
    labels[:2, :2, :2] = 1
    labels[3, 3, 3] = highest
    image = nibabel.Nifti1Image(labels, numpy.eye(4))
    image.set_data_dtype(dtype)
    path = f"{folder}/{numpy.dtype(dtype).name}.nii.gz"
    nibabel.save(image, path)
    read = nibabel.load(path).get_fdata()
    cast = read.astype(numpy.uint8)
    other = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path, SimpleITK.sitkUInt8))
    rounded = numpy.rint(read)
    row = [int((array == 1).sum()) for array in (labels, cast, other, rounded)]
    counts.append(row)
    print(f"{numpy.dtype(dtype).name}: label 1 reads {read[0, 0, 0]!r}; voxels of it: saved {row[0]}, cast {row[1]}, "
          f"SimpleITK as UInt8 {row[2]}, rounded {row[3]}")
expected = [[9, 0, 9, 9], [8, 0, 0, 8]]
sys.exit(0 if counts == expected else f"this is not what was seen: {counts}")
PY
