"""Who runs it. Each function here makes ready, and returns what measures a round of runs whenever it is called."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import onnx
import openvino
from graphs import Network, needed, sessions

RUNS_A_ROUND = 8


class Times(NamedTuple):
    """Milliseconds of a round, or of all rounds: the shortest and the median of medians."""

    least: float
    median: float

    @classmethod
    def of_runs(cls, runs: list[float]) -> "Times":
        return cls(min(runs), median(runs))

    @classmethod
    def of_rounds(cls, rounds: list["Times"]) -> "Times":
        return cls(min(it.least for it in rounds), median(it.median for it in rounds))


Round = Callable[[], Times]


def in_process(run: Callable[[], None]) -> Round:
    def once() -> float:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)

    def round_() -> Times:
        # Others ran meanwhile and have the caches.
        once()
        return Times.of_runs([once() for _ in range(RUNS_A_ROUND)])

    return round_


def onnx_runtime(network: Network, threads: int) -> Round:
    ready = [(it, [output.name for output in it.get_outputs()]) for it in sessions(network, threads)]

    def run() -> None:
        values = dict(network.inputs)
        for session, names in ready:
            values |= zip(names, session.run(names, needed(session, values)))

    return in_process(run)


def open_vino_has_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_vino(network: Network, threads: int, precision: str) -> Round:
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    models = [openvino.Core().compile_model(file, "CPU", settings) for file in network.files]

    def run() -> None:
        values = dict(network.inputs)
        for model in models:
            given = model({it.any_name: values[it.any_name] for it in model.inputs})
            values |= {it.any_name: given[it] for it in model.outputs}

    return in_process(run)


def ours(trainer: str, bundle: Path, threads: int, *flags: str) -> Round:
    command = [trainer, "bundle", "profile", bundle, "--runs", str(RUNS_A_ROUND), "--threads", str(threads), *flags]

    def round_() -> Times:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        least, middle = re.search(r"([\d.]+) ms at least, ([\d.]+) ms", text).groups()
        return Times(float(least), float(middle))

    return round_


def rten(program: Path, network: Network, threads: int, folder: Path) -> Round:
    """For networks of one graph: it runs on random values."""
    (file,) = network.files
    folder.mkdir()
    # Its parser wants lists of integers one by one, as Python's onnx writes them.
    plain = folder / file.name
    onnx.save(onnx.load(file), plain)
    command = [program, "--prepack", "-n", str(RUNS_A_ROUND + 1), "-t", str(threads), plain]

    def round_() -> Times:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs = [float(ms) for ms in re.findall(r"outputs in ([\d.]+)ms", done.stdout + done.stderr)]
        return Times.of_runs(runs[1:])

    return round_
