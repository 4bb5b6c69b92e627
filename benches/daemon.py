"""What the daemon costs on this machine: daemon.py SCANSIDED BUNDLE COUNT [--alone COUNT] IMAGE...

With SHADOW=on a copy of the bundle with the next counter is installed and works on the same images in the shadow; after
that it is promoted and rolled back, with the time of each command.

Starts mosquitto and SCANSIDED and prints the time from start to ready and resident memory at rest. Then drops COUNT files
into the inbox at once (the IMAGEs in turn) and prints the time an image takes when there is always a next one: each stage,
and what is between two images beside their stages (reading, hashing, the outbox's commits). Then 100 images, or
`--alone COUNT`, one after the other: from the inbox to accepted, which is the folder's waiting until a file stands
still, and from there to PUBACK. Needs mosquitto; nothing else than Python's own library.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

STAGES = ["decode_ms", "preprocess_ms", "infer_ms", "postprocess_ms", "encode_ms"]


def resident_mib(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(what: str, done, seconds: float = 300, glance: float = 0.02):
    end = time.monotonic() + seconds
    while not (value := done()):
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen in {seconds} s")
        time.sleep(glance)
    return value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scansided")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--alone", type=int, default=100)
    parser.add_argument("images", type=Path, nargs="+")
    arguments = parser.parse_args()
    scansided, bundle, images = arguments.scansided, arguments.bundle.resolve(), arguments.images
    with tempfile.TemporaryDirectory() as folder:
        port, work = free_port(), Path(folder)
        (work / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        (work / "inbox").mkdir()
        shadow = '[models]\nallow_unsigned = true\nshadow = "candidate"\n' if "SHADOW" in os.environ else ""
        (work / "daemon.toml").write_text(
            f'node = "box-1"\n[model]\nbundle = "{bundle}"\n[state]\ndirectory = "state"\nmin_free_bytes = 0\n'
            f'[[folder]]\nname = "inbox"\ndirectory = "inbox"\nstable_ms = 20\npoll_interval_ms = 50\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nhealth_interval_s = 1\n{shadow}'
        )
        path = os.environ["PATH"] + ":/usr/sbin"
        mosquitto = shutil.which("mosquitto", path=path)
        broker = subprocess.Popen([mosquitto, "-c", work / "mosquitto.conf"], stderr=subprocess.DEVNULL)
        log = work / "daemon.log"
        with log.open("wb") as out:
            daemon = subprocess.Popen(
                [scansided, "--log-json", "run", "--config", work / "daemon.toml"], stderr=out
            )
        try:
            models = [scansided, "models"]
            if shadow:
                wait_for("ready", lambda: events(log, "ready"))
                candidate = str(next_version(bundle, work / "candidate"))
                command([*models, "install", "--unsigned", candidate], work)
            at_rest(daemon, log)
            busy(daemon, log, work, images, arguments.count)
            alone(work, images, arguments.alone)
            if shadow:
                print(subprocess.run(
                    ["mosquitto_sub", "-p", str(port), "-C", "1", "-t", "scanside/v1/box-1/model/default"],
                    capture_output=True, text=True, check=True,
                ).stdout.split('"shadow":')[1].split("}]")[0])
                for what in ("promote", "rollback"):
                    command([*models, what], work)
        finally:
            daemon.terminate()
            daemon.wait()
            broker.terminate()


def command(words: list[str], work: Path) -> None:
    begin = time.monotonic()
    subprocess.run([*words, "--config", work / "daemon.toml"], check=True, stdout=subprocess.DEVNULL)
    print(f"{words[2]} took {1000 * (time.monotonic() - begin):.0f} ms, the program's start included")


def next_version(bundle: Path, copy: Path) -> Path:
    """The bundle under the next counter; its digest is that of the compact JSON without one."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["counter"] += 1
    manifest["digest"] = ""
    compact = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False)
    manifest["digest"] = hashlib.sha256(compact.encode()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False))
    return copy


def events(log: Path, message: str) -> list[dict]:
    """Their fields, and in `at` when it was, s."""
    whole = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    found = [line for line in whole if line["fields"].get("message") == message]
    return [line["fields"] | {"at": datetime.fromisoformat(line["timestamp"]).timestamp()} for line in found]


def at_rest(daemon, log: Path) -> None:
    ready = wait_for("ready", lambda: events(log, "ready"))[0]
    time.sleep(2)
    print(f"start to ready {ready['startup_ms']} ms, resident at rest {resident_mib(daemon.pid, 'VmRSS'):.0f} MiB")


def drop(work: Path, image: Path, name: str) -> None:
    part = work / "inbox" / f"{name}.part"
    part.write_bytes(image.read_bytes())
    part.rename(part.with_suffix(image.suffix))


def is_empty(folder: Path) -> bool:
    return not folder.is_dir() or not any(folder.iterdir())


def busy(daemon, log: Path, work: Path, images: list[Path], count: int) -> None:
    accepted = work / "state" / "accepted" / "inbox"
    begin = time.monotonic()
    for number in range(count):
        drop(work, images[number % len(images)], str(number))
    wait_for("the last PUBACK", lambda: len(events(log, "image segmented")) == count and is_empty(accepted))
    seconds = time.monotonic() - begin
    print(f"{count} images in {seconds:.1f} s, {1000 * seconds / count:.1f} ms each from inbox to PUBACK, busy all the time")
    print(f"resident at most {resident_mib(daemon.pid, 'VmHWM'):.0f} MiB while segmenting")
    segmented = events(log, "image segmented")
    for stage in STAGES:
        show(stage, [event[stage] for event in segmented])
    stages = [sum(event[stage] for stage in STAGES) for event in segmented]
    around = [sum(event[stage] for stage in STAGES if stage != "infer_ms") for event in segmented]
    show("around the graph", around)
    whole = [1000 * (b["at"] - a["at"]) for a, b in zip(segmented, segmented[1:])]
    show("whole image", whole)
    show("between images", [image - inside for image, inside in zip(whole, stages[1:])])


def alone(work: Path, images: list[Path], count: int) -> None:
    accepted = work / "state" / "accepted" / "inbox"
    waits, ways, wholes = [], [], []
    for number in range(count):
        drop(work, images[number % len(images)], f"alone-{number}")
        begin = time.monotonic()
        wait_for("acceptance", lambda: not is_empty(accepted), glance=0.0005)
        taken = time.monotonic()
        wait_for("PUBACK", lambda: is_empty(accepted), glance=0.0005)
        end = time.monotonic()
        waits.append(1000 * (taken - begin))
        ways.append(1000 * (end - taken))
        wholes.append(1000 * (end - begin))
    print(f"{count} images, each after the PUBACK of the one before")
    show("inbox to accepted", waits)
    show("accepted to PUBACK", ways)
    show("inbox to PUBACK", wholes)


def show(what: str, values: list[float]) -> None:
    values = sorted(values)
    p50, p95, p99 = (values[min(len(values) - 1, len(values) * p // 100)] for p in (50, 95, 99))
    print(f"{what:18} p50 {p50:8.2f}  p95 {p95:8.2f}  p99 {p99:8.2f}")


if __name__ == "__main__":
    main()
