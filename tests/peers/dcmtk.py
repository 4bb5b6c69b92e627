"""DICOM files written by DCMTK give the masks of the files they were made from.

dcmtk.py SCANSIDED BUNDLE IMAGE...

Each image goes through DCMTK's converters to every lossless transfer syntax that they write and the daemon reads;
JPEG-LS, which it does not read, has to end in an error with a remedy. Needs DCMTK, numpy and pycocotools.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMPARE = Path(__file__).parent.parent / "arm" / "compare.py"
CONVERTERS = {
    "implicit little endian": ["dcmconv", "+ti"],
    "explicit little endian": ["dcmconv", "+te"],
    "explicit big endian": ["dcmconv", "+tb"],
    "deflated": ["dcmconv", "+td"],
    "RLE lossless": ["dcmcrle"],
    "JPEG lossless": ["dcmcjpeg", "+e1"],
}
REFUSED = ["dcmcjpls"]


def convert(command: list[str], images: list[str], folder: Path) -> list[str]:
    folder.mkdir()
    made = [str(folder / f"{index}.dcm") for index in range(len(images))]
    for image, copy in zip(images, made):
        subprocess.run([*command, image, copy], check=True)
    return made


def main() -> int:
    scansided, bundle, *images = sys.argv[1:]

    def segment(files: list[str], out: Path) -> int:
        with out.open("wb") as lines:
            return subprocess.run([scansided, "segment", "--bundle", bundle, *files], stdout=lines).returncode

    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for image in images:
            complaint = subprocess.run(["dcmdump", "-q", image], capture_output=True, text=True).stderr
            if complaint:
                failed.append(f"dcmdump {image}: {complaint}")
        plain = convert(["dcmdjpeg"], images, work / "plain")
        if segment(plain, work / "plain.jsonl") != 0:
            sys.exit("the images themselves do not go through")
        for name, command in CONVERTERS.items():
            out = work / f"{command[-1]}.jsonl"
            status = segment(convert(command, plain, work / command[-1]), out)
            print(f"{name}: ", end="", flush=True)
            compare = [sys.executable, COMPARE, work / "plain.jsonl", out, "--in-order"]
            if status != 0 or subprocess.run(compare).returncode != 0:
                failed.append(name)
        out = work / "refused.jsonl"
        status = segment(convert(REFUSED, plain[:1], work / "refused"), out)
        line = json.loads(out.read_text())
        print(f"JPEG-LS: {line}")
        if status != 1 or line["schema"] != "error/1" or not line["remedy"]:
            failed.append("JPEG-LS is not refused as it should be")
    for failure in failed:
        print(f"FAILED: {failure}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
