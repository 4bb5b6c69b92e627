"""The eighteen ways to fine-tune SAM on four real images: eighteen.py TRAINER LIST [--encoders vit_t,vit_b] [--epochs 4]
[--scopes decoder,encoder-decoder] [--methods vanilla,adapter,lora] [--device cuda] [--precision bf16]

For every encoder, scope and method: trainable parameters, ours and those that the reference implementation marks so
by default, the estimate and the measured peak of memory, seconds a step (median), and the loss of the first and of the
last pass over the images. Images are not augmented, so that the losses compare. Prints a Markdown table. vit_h needs
10 GB and patience, or a GPU; its blocks are checkpointed. The reference's numbers are read from a JSON file (--reference
PATH). Memory of a GPU is what nvidia-smi shows more than before, CUDA's own 0.5 GiB included.
"""

import csv
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

N_IMAGES = 4
REFERENCE = "../shared/fixtures/param_inventory.json"


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def four_images(source: Path, target: Path) -> None:
    """The first training images that have a foreground, and one to validate on."""
    rows = list(csv.DictReader(source.open()))
    train = [row for row in rows if row["split"] == "train"]
    step = max(1, len(train) // N_IMAGES)
    chosen = train[::step][:N_IMAGES] + [row for row in rows if row["split"] == "validation"][:1]
    with target.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0].keys())
        writer.writeheader()
        writer.writerows(chosen)


def command(
    trainer: str, data: Path, run: Path, way: tuple[str, str, str], epochs: int, checkpointing: bool
) -> list[str]:
    encoder, scope, method = way
    settings = [
        f'compute.device="{option("--device", "cpu")}"',
        f'compute.precision="{option("--precision", "f32")}"',
        f'data.lists=["{data}"]',
        "augmentation.enabled=false",
        f"finetune.epochs={epochs}",
        "finetune.accumulate=1",
        "finetune.warmup_steps=2",
        f"finetune.validate_every_epochs={epochs}",
        f"finetune.gradient_checkpointing={str(checkpointing).lower()}",
    ]
    arguments = [trainer, "finetune", "--run", str(run)]
    arguments += ["--encoder", encoder, "--scope", scope, "--method", method]
    return arguments + [part for setting in settings for part in ("--set", setting)]


def peak_gib(pid: int) -> float:
    """VmHWM, while the process is there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 2**20 if found else 0.0


class GpuMemory:
    """The most memory that GPU 0 had in use within the block, in GiB more than at its start."""

    gib = 0.0

    def __enter__(self) -> "GpuMemory":
        self.log = tempfile.TemporaryFile("w+")
        query = ["nvidia-smi", "-i", "0", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "20"]
        self.child = subprocess.Popen(query, stdout=self.log)
        time.sleep(0.5)
        return self

    def __exit__(self, *_) -> None:
        self.child.kill()
        self.child.wait()
        self.log.seek(0)
        used = [int(line) for line in self.log.read().splitlines() if line.isdigit()]
        self.gib = (max(used) - used[0]) / 1024


def dry_run(arguments: list[str]) -> tuple[int, float]:
    """Trainable parameters and the estimated peak in GiB."""
    plan = subprocess.run([*arguments, "--dry-run"], capture_output=True, text=True, check=True)
    said = plan.stdout + plan.stderr
    trainable = re.search(r"^all +\d+ +(\d+)$", said, re.MULTILINE)[1]
    estimate = re.search(r"^peak +(\d+)", said, re.MULTILINE)[1]
    return int(trainable), int(estimate) / 1024


def in_reference(inventory: Path, way: tuple[str, str, str]) -> str:
    """Parameters that require a gradient there, or "-" where they are not listed."""
    if not inventory.exists():
        return "-"
    encoder, scope, method = way
    ways = json.loads(inventory.read_text())["archs"].get(encoder, {})
    return str(ways.get(f"{method}_{scope.replace('-', '_')}", {}).get("n_requires_grad", "-"))


def measure(trainer: str, data: Path, way: tuple[str, str, str], epochs: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        arguments = command(trainer, data, run, way, epochs, way[0] == "vit_h")
        trainable, estimate = dry_run(arguments)
        on_gpu = option("--device", "cpu") == "cuda"
        with open(Path(folder) / "log", "w") as log, GpuMemory() if on_gpu else nullcontext() as gpu:
            child = subprocess.Popen(arguments, stdout=log, stderr=log)
            peak, times, seen = 0.0, [], 0
            while child.poll() is None:
                peak = max(peak, peak_gib(child.pid))
                steps = metrics(run)
                times += [time.monotonic()] * (len(steps) - seen)
                seen = len(steps)
                time.sleep(0.01)
        if on_gpu:
            peak = gpu.gib
        if child.returncode != 0:
            sys.exit((Path(folder) / "log").read_text())
        losses = [step["loss"] for step in metrics(run)]
        seconds = statistics.median(b - a for a, b in zip(times, times[1:]))
        first, last = (statistics.mean(part) for part in (losses[:N_IMAGES], losses[-N_IMAGES:]))
        verdict = "" if last < first else " NOT LOWER"
        encoder, scope, method = way
        reference = in_reference(Path(option("--reference", REFERENCE)), way)
        return (f"| {encoder} | {scope} | {method} | {trainable} | {reference} | {estimate:.1f} | {peak:.1f} | "
                f"{seconds:.2f} | {first:.3f} | {last:.3f}{verdict} |")


def metrics(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    complete = [json.loads(line) for line in lines if line.endswith("}")]
    return [line for line in complete if line["kind"] == "step"]


def main() -> None:
    trainer, source = sys.argv[1], Path(sys.argv[2])
    epochs = int(option("--epochs", "4"))
    columns = ["encoder", "scope", "method", "trainable", "reference", "GiB estimated", "GiB measured", "s a step"]
    columns += ["loss at first", "at last"]
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "four.csv"
        four_images(source, data)
        for encoder in option("--encoders", "vit_t,vit_b").split(","):
            for scope in option("--scopes", "decoder,encoder-decoder").split(","):
                for method in option("--methods", "vanilla,adapter,lora").split(","):
                    print(measure(trainer, data, (encoder, scope, method), epochs), flush=True)


if __name__ == "__main__":
    main()
