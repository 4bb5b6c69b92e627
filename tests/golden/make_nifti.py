"""Writes nifti.json: what nibabel makes of NIfTI headers.

    .scanside/venv/bin/python tests/golden/make_nifti.py

`headers`: the 348 bytes, nibabel's affine (RAS, row by row). `volumes`: a header with the voxels as nibabel turns them
around (`as_reoriented`) to columns to the left, rows to the back and slices to the head, first axis fastest.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

rng = np.random.default_rng(5)


def rotation():
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def affine(turn, zooms, offset):
    out = np.eye(4)
    out[:3, :3] = turn * zooms
    out[:3, 3] = offset
    return out


def header(shape, sform=None, qform=None, zooms=(1, 1, 1), codes=(1, 1)):
    head = nib.Nifti1Header()
    head.set_data_dtype(np.uint8)
    head.set_data_shape(shape)
    head.set_zooms(zooms[: len(shape)])
    if qform is not None:
        head.set_qform(qform, codes[1])
    if sform is not None:
        head.set_sform(sform, codes[0])
    head["magic"] = b"n+1"
    head["vox_offset"] = 352
    return head


def case(name, head):
    return {
        "name": name,
        "header": head.binaryblock.hex(),
        "affine": head.get_best_affine().round(6).tolist(),
    }


def headers():
    zooms = np.array([0.7, 1.1, 4.5])
    any_place = affine(rotation(), zooms, [-31.5, 12.25, 300])
    other = affine(rotation(), zooms, [5, 6, 7])
    yield case("sform", header((5, 6, 7), sform=any_place, zooms=zooms))
    yield case("qform", header((5, 6, 7), qform=any_place, zooms=zooms))
    mirrored = affine(rotation() * [1, 1, -1], zooms, [1, 2, 3])
    yield case("qform with qfac -1", header((5, 6, 7), qform=mirrored, zooms=zooms))
    for i, turn in enumerate(([1, -1, -1], [-1, 1, -1], [-1, -1, 1])):
        half = affine(np.diag(turn), zooms, [9, 8, 7])
        yield case(f"half a turn {i}", header((5, 6, 7), qform=half, zooms=zooms))
    yield case("both, sform counts", header((5, 6, 7), sform=any_place, qform=other, zooms=zooms, codes=(4, 1)))
    yield case("sform without code", header((5, 6, 7), sform=any_place, qform=other, zooms=zooms, codes=(0, 2)))
    yield case("neither", header((5, 6, 7), zooms=zooms))
    yield case("one time", header((5, 6, 7, 1), sform=any_place, zooms=[*zooms, 2.0]))
    for i in range(4):
        place = affine(rotation(), rng.uniform(0.5, 5, 3), rng.uniform(-200, 200, 3))
        yield case(f"any {i}", header((9, 8, 7), qform=place, zooms=nib.affines.voxel_sizes(place)))


def volumes():
    for i, code in enumerate(("LPS", "RAS", "PSR", "ASL", "IPR", "SAL", "RPI")):
        voxels = rng.integers(0, 256, (3, 4, 5), dtype=np.uint8)
        shown = affine(np.diag([-1, -1, 1]), [1.5, 1.25, 6.0], [20, 30, -40])
        image = nib.Nifti1Image(voxels, shown)
        stored = image.as_reoriented(ornt_transform(io_orientation(shown), axcodes2ornt(code)))
        back = stored.as_reoriented(ornt_transform(io_orientation(stored.affine), axcodes2ornt("LPS")))
        assert np.array_equal(np.asarray(back.dataobj), voxels)
        data = np.asarray(stored.dataobj)
        yield {
            "name": code,
            "header": header(data.shape, sform=stored.affine, zooms=stored.header.get_zooms()).binaryblock.hex(),
            "stored": data.ravel(order="F").tolist(),
            "shape": list(voxels.shape),
            "shown": voxels.ravel(order="F").tolist(),
        }


def lines(cases):
    return ",\n".join(json.dumps(one) for one in cases)


Path(__file__).with_name("nifti.json").write_text(
    f'{{"headers": [\n{lines(headers())}\n], "volumes": [\n{lines(volumes())}\n]}}\n'
)
