"""A broker, a PACS and the daemon below one folder, for seg.py."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pydicom

PATIENCE = 300


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, done, patience: float = PATIENCE, why=lambda: ""):
    end = time.monotonic() + patience
    while not (result := done()):
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: {what} did not happen in {patience} s {why()}")
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
