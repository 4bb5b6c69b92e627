#!/usr/bin/env bash
# A NIfTI file whose sform_code is 2 or 4 (registered data) lies at two places: nibabel takes the sform, SimpleITK the
# qform, without a word.
#
# Seen with nibabel 5.4.2 and SimpleITK 2.5.7 on Python 3.11: the first voxel of one file lies 30 mm apart.
#     sform_code 1: nibabel (10, 20, 30), SimpleITK (10, 20, 30)
#     sform_code 2: nibabel (10, 20, 30), SimpleITK (10, 20, 0)
#     sform_code 4: nibabel (10, 20, 30), SimpleITK (10, 20, 0)
# What it means here: the trainer takes the sform where its code is above 0, and warns where the qform lies elsewhere.
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
rows = []
for code in (1, 2, 4):
    affine = numpy.eye(4)
    affine[:3, 3] = 10, 20, 30
    image = nibabel.Nifti1Image(numpy.zeros((4, 5, 6), numpy.int16), affine)
    image.set_sform(affine, code)
    elsewhere = affine.copy()
    elsewhere[2, 3] = 0
    image.set_qform(elsewhere, 1)
    path = f"{folder}/{code}.nii.gz"
    nibabel.save(image, path)
    by_nibabel = tuple(float(x) for x in nibabel.load(path).affine[:3, 3])
    x, y, z = SimpleITK.ReadImage(path).GetOrigin()
    # SimpleITK speaks LPS, nibabel RAS.
    by_simpleitk = (-x, -y, z)
    rows.append((code, by_nibabel, by_simpleitk))
    print(f"sform_code {code}: nibabel {by_nibabel}, SimpleITK {by_simpleitk}")
here, there = (10.0, 20.0, 30.0), (10.0, 20.0, 0.0)
expected = [(1, here, here), (2, here, there), (4, here, there)]
sys.exit(0 if rows == expected else "this is not what was seen")
PY
