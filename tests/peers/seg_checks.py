"""What others say of files and of the PACS, for seg.py."""

import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

from seg_site import Site, free_port, listens, wait_for

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


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
