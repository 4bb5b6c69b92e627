"""C-STORE while ten times as many images come as are segmented: overload.py SCANSIDED BUNDLE SECONDS IMAGE...

Starts mosquitto and SCANSIDED, finds out how many images a second it segments, and sends ten times as many for SECONDS,
by four processes with an association each: copies of the DICOM IMAGEs in turn, each another instance. Prints the time to an
answer and the daemon's memory, and fails unless all that was answered with success is in the books.

With RACE=on pynetdicom's own thread runs between two objects, as it does unless it is stopped. That thread may take an
answer that `send_c_store` waits for, and drops it (`keep_still` says how); such answers are counted. OVERLOAD=60 sends sixty
times as many. Needs mosquitto, and pydicom and pynetdicom (PyPI).
"""

import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from daemon import STAGES, events, free_port, resident_mib, wait_for

SENDERS = 4
OVERLOAD = float(os.environ.get("OVERLOAD", "10"))
PROBES = 40
# Seconds that pynetdicom waits for an answer.
PATIENCE = 10


class Dropped(logging.Handler):
    """Counts answers that pynetdicom's thread took and did not want."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "unexpected C-STORE service message" in record.getMessage().replace("_", "-")


def keep_still(association) -> None:
    """Stops pynetdicom's thread until `release`.

    `send_c_store` stops it too (`_reactor_checkpoint.clear()`) and waits for `_is_paused`; but that is still true from the
    last time when the thread was told to go on and has not got a processor yet. It wakes later, asks for messages
    and takes the answer for a request that it does not know.
    """
    association._reactor_checkpoint.set = lambda: None
    association._reactor_checkpoint.clear()
    time.sleep(0.2)
    while not association._is_paused:
        time.sleep(0.001)


def let_go(association) -> None:
    vars(association._reactor_checkpoint).pop("set", None)
    association._reactor_checkpoint.set()


def send(port: int, files: list[Path], due: list[float], race: bool, out) -> None:
    """Sends at these moments; gives for each the time to its answer, and from when it was due."""
    import pydicom
    from pydicom.uid import generate_uid
    from pynetdicom import AE

    # UIDs of real scanners have leading zeros.
    warnings.simplefilter("ignore")
    dropped = Dropped()
    logging.getLogger("pynetdicom").addHandler(dropped)
    datasets = [pydicom.dcmread(file) for file in files]
    entity = AE(ae_title="BENCH")
    entity.dimse_timeout = PATIENCE
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port)
    if not association.is_established:
        sys.exit("no association")
    if not race:
        keep_still(association)
    times, refused, silent = [], 0, 0
    for number, moment in enumerate(due):
        dataset = datasets[number % len(datasets)]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        time.sleep(max(0, moment - time.monotonic()))
        begin = time.monotonic()
        status = association.send_c_store(dataset)
        end = time.monotonic()
        if "Status" not in status:
            # pynetdicom ends the association after that.
            silent += 1
            break
        refused += status.Status != 0
        times.append((end - begin, end - moment))
    if association.is_established:
        let_go(association)
        association.release()
    out.put((times, refused, silent, dropped.count))


def burst(port: int, files: list[Path], count: int, rate: float, race: bool, senders: int) -> tuple:
    out = multiprocessing.Queue()
    # The imports and the associations take a moment.
    begin = time.monotonic() + 3
    moments = [begin + number / rate for number in range(count)]
    processes = [
        multiprocessing.Process(target=send, args=(port, files, moments[first::senders], race, out))
        for first in range(senders)
    ]
    for process in processes:
        process.start()
    parts = [out.get() for _ in processes]
    seconds = time.monotonic() - begin
    for process in processes:
        process.join()
    times = [pair for part in parts for pair in part[0]]
    return times, seconds, *(sum(part[index] for part in parts) for index in (1, 2, 3))


def main() -> None:
    scansided, bundle, seconds = sys.argv[1], Path(sys.argv[2]).resolve(), float(sys.argv[3])
    images, race = [Path(name) for name in sys.argv[4:]], "RACE" in os.environ
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        broker_port, port = free_port(), free_port()
        (work / "mosquitto.conf").write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\n")
        (work / "daemon.toml").write_text(
            f'node = "box-1"\n[model]\nbundle = "{bundle}"\n[state]\ndirectory = "state"\n'
            f'[[dicom]]\nname = "scanner"\nport = {port}\n[mqtt]\nhost = "127.0.0.1"\nport = {broker_port}\n'
        )
        mosquitto = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        broker = subprocess.Popen([mosquitto, "-c", work / "mosquitto.conf"], stderr=subprocess.DEVNULL)
        log = work / "daemon.log"
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                [scansided, "--log-json", "run", "--config", work / "daemon.toml"], stderr=out
            )
        try:
            wait_for("ready", lambda: events(log, "ready"))
            n_answered = measure(daemon.pid, log, port, images, seconds, race)
        finally:
            daemon.terminate()
            daemon.wait()
            broker.terminate()
        ledger = subprocess.run(
            [scansided, "ledger", "verify", "--config", work / "daemon.toml"], capture_output=True, text=True
        )
        print(ledger.stdout.strip())
        received = int(re.match(r"received (\d+) =", ledger.stdout)[1])
        # What was taken and whose answer nobody heard may be there besides.
        if ledger.returncode != 0 or received < n_answered or (received > n_answered and not race):
            sys.exit(f"{n_answered} were answered with success")


def measure(pid: int, log: Path, port: int, images: list[Path], seconds: float, race: bool) -> int:
    """How many objects were answered with success."""
    begin = time.monotonic()
    burst(port, images, PROBES, 1000, False, 1)
    wait_for("segmentation", lambda: len(events(log, "image segmented")) == PROBES)
    segmented = events(log, "image segmented")
    rate = 1000 * PROBES / sum(event[stage] for event in segmented for stage in STAGES)
    count = int(OVERLOAD * rate * seconds)
    print(f"{rate:.1f} images/s are segmented alone ({time.monotonic() - begin:.0f} s)")
    times, took, refused, silent, dropped = burst(port, images, count, OVERLOAD * rate, race, SENDERS)
    n_segmented = len(events(log, "image segmented")) - PROBES
    print(f"{len(times)} of {count} answered in {took:.0f} s, {len(times) / took:.0f}/s, {n_segmented / took:.1f}/s segmented")
    print(f"{refused} refused, {silent} without an answer, {dropped} answers dropped by pynetdicom's thread")
    for what, values in zip(("sent", "due"), zip(*times)):
        values = sorted(1000 * value for value in values)
        p50, p99 = (values[len(values) * p // 100] for p in (50, 99))
        print(f"ms from {what:4} to the answer: p50 {p50:.1f}, p99 {p99:.1f}, max {values[-1]:.1f}")
    print(f"resident at most {resident_mib(pid, 'VmHWM'):.0f} MiB")
    return len(times) - refused + PROBES


if __name__ == "__main__":
    main()
