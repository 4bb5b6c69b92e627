"""What the daemon costs on this machine: daemon.py SCANSIDED BUNDLE COUNT IMAGE...

With SHADOW=on a copy of the bundle with the next counter is installed and works on the same images in the shadow; after
that it is promoted and rolled back, with the time of each command.

Starts mosquitto and SCANSIDED, drops COUNT files into the inbox (the IMAGEs in turn) and prints the time from start to
ready, resident memory at rest and while segmenting, and the time of each stage. Needs mosquitto; nothing else than
Python's own library.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
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


def wait_for(what: str, done, seconds: float = 300):
    end = time.monotonic() + seconds
    while not (value := done()):
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen in {seconds} s")
        time.sleep(0.02)
    return value


def main() -> None:
    scansided, bundle, count = sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3])
    images = [Path(name) for name in sys.argv[4:]]
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
            measure(daemon, log, work, images, count)
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
    lines = log.read_text().splitlines()
    fields = [json.loads(line)["fields"] for line in lines if line.endswith("}")]
    return [line for line in fields if line.get("message") == message]


def measure(daemon, log: Path, work: Path, images: list[Path], count: int) -> None:
    ready = wait_for("ready", lambda: events(log, "ready"))[0]
    time.sleep(2)
    print(f"start to ready {ready['startup_ms']} ms, resident at rest {resident_mib(daemon.pid, 'VmRSS'):.0f} MiB")
    begin = time.monotonic()
    for number in range(count):
        image = images[number % len(images)]
        part = work / "inbox" / f"{number}.part"
        part.write_bytes(image.read_bytes())
        part.rename(part.with_suffix(image.suffix))
    accepted = work / "state" / "accepted" / "inbox"
    wait_for("the last PUBACK", lambda: len(events(log, "image segmented")) == count and not any(accepted.iterdir()))
    seconds = time.monotonic() - begin
    print(f"{count} images in {seconds:.1f} s, {1000 * seconds / count:.0f} ms each from inbox to PUBACK, busy all the time")
    print(f"resident at most {resident_mib(daemon.pid, 'VmHWM'):.0f} MiB while segmenting")
    segmented = events(log, "image segmented")
    for stage in STAGES:
        values = sorted(event[stage] for event in segmented)
        p50, p95, p99 = (values[min(len(values) - 1, len(values) * p // 100)] for p in (50, 95, 99))
        print(f"{stage:15} p50 {p50:8.2f}  p95 {p95:8.2f}  p99 {p99:8.2f}")


if __name__ == "__main__":
    main()
