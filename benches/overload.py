"""C-STORE while ten times as many images come as can be segmented: overload.py SCANSIDED BUNDLE IMAGE... [--seconds 60]

Four associations send copies of the images, each under another SOP Instance UID, as fast as they are answered. Prints
how many were answered a second, how many were segmented meanwhile, and the time to an answer. Needs mosquitto, and pydicom
and pynetdicom (PyPI).
"""

import io
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE

N_ASSOCIATIONS = 4


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def send(port: int, files: list[bytes], until: float, times: list[float]) -> None:
    datasets = [pydicom.dcmread(io.BytesIO(file)) for file in files]
    entity = AE(ae_title="BENCH")
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port)
    if not association.is_established:
        sys.exit("no association")
    number = 0
    while time.monotonic() < until:
        dataset = datasets[number % len(datasets)]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        start = time.monotonic()
        status = association.send_c_store(dataset)
        times.append(time.monotonic() - start)
        if not status or status.Status != 0:
            sys.exit(f"answered with {status}")
        number += 1
    association.release()


def wait_until(what: str, done) -> None:
    start = time.monotonic()
    while not done():
        if time.monotonic() - start > 60:
            sys.exit(f"{what} did not happen")
        time.sleep(0.05)


def main() -> None:
    seconds = float(option("--seconds", "60"))
    arguments = [value for value in sys.argv[1:] if value not in ("--seconds", option("--seconds", ""))]
    scansided, bundle, *images = arguments
    files = [Path(image).read_bytes() for image in images]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        broker_port, port = free_port(), free_port()
        (folder / "mosquitto.conf").write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\n")
        (folder / "daemon.toml").write_text(
            f'node = "bench"\n[model]\nbundle = "{Path(bundle).resolve()}"\n[state]\ndirectory = "state"\n'
            f'[[dicom]]\nname = "scanner"\nport = {port}\n[mqtt]\nhost = "127.0.0.1"\nport = {broker_port}\n'
        )
        broker = subprocess.Popen(["/usr/sbin/mosquitto", "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
        log = folder / "log"
        with log.open("w") as out:
            daemon = subprocess.Popen([scansided, "run", "--config", folder / "daemon.toml"], stderr=out)
        try:
            wait_until("the start", lambda: "ready" in log.read_text())
            done = lambda: log.read_text().count("image segmented")
            times: list[list[float]] = [[] for _ in range(N_ASSOCIATIONS)]
            start = time.monotonic()
            threads = [threading.Thread(target=send, args=(port, files, start + seconds, own)) for own in times]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took, segmented = time.monotonic() - start, done()
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
        finally:
            daemon.send_signal(signal.SIGKILL)
            broker.kill()
            daemon.wait()
            broker.wait()
        all_times = sorted(time for own in times for time in own)
        cuts = statistics.quantiles(all_times, n=100)
        print(f"{len(all_times) / took:.0f} objects/s answered, {segmented / took:.1f}/s segmented, {took:.0f} s")
        print(f"time to an answer, ms: p50 {cuts[49] * 1e3:.1f}, p95 {cuts[94] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f}, "
              f"max {all_times[-1] * 1e3:.1f}; {resident:.0f} MiB resident")


if __name__ == "__main__":
    main()
