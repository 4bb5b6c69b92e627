"""tract with the daemon's operations against other runtimes on the same graphs, in turn.

    python3 benches/peers.py TRAINER F32_BUNDLE INT8_BUNDLE [--threads 1] [--rounds 8] [--rten PATH] [--graph NAME=FILE ...]

TRAINER is the trainer program; its `bundle profile` measures ours. The others are ONNX Runtime and OpenVINO (PyPI:
onnxruntime, openvino, onnx), and rten's command line program where it is given (`cargo install rten-cli`). The f32
graph is also quantized by ONNX Runtime's own tool, with the golden image for calibration: its own fast form (QDQ).
`--graph` adds a graph that takes the same image. OpenVINO computes f32 in bf16 where the CPU can, unless told not to:
both are rows. Prints a Markdown table, fastest first, as benches/RESULTS.md has it.
"""

import argparse
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

RUNS_A_ROUND = 4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer")
    parser.add_argument("f32", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rten")
    parser.add_argument("--graph", action="append", default=[], metavar="NAME=FILE")
    return parser.parse_args()


class Calibration(CalibrationDataReader):
    def __init__(self, name: str, image: np.ndarray):
        self.images = iter([{name: image}])

    def get_next(self):
        return next(self.images, None)


def quantized(graph: Path, image: np.ndarray, folder: Path) -> Path:
    """The graph with QuantizeLinear and DequantizeLinear as ONNX Runtime's own tool puts them."""
    name = onnxruntime.InferenceSession(graph).get_inputs()[0].name
    prepared, out = folder / f"{graph.parent.name}.prepared.onnx", folder / f"{graph.parent.name}.qdq.onnx"
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        Calibration(name, image),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def onnx_runtime(graph: Path, image: np.ndarray, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: timed(lambda: session.run(None, {session.get_inputs()[0].name: image}))


def open_vino(graph: Path, image: np.ndarray, threads: int, precision: str):
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    model = openvino.Core().compile_model(graph, "CPU", settings)
    return lambda: timed(lambda: model([image]))


def timed(run) -> list[float]:
    times = []
    for _ in range(RUNS_A_ROUND):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ours(trainer: str, bundle: Path, threads: int):
    command = [trainer, "bundle", "profile", bundle, "--runs", "8", "--threads", str(threads)]

    def run() -> list[float]:
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [float(ms) for ms in re.search(r"([\d.]+) ms at least, ([\d.]+) ms", text).groups()]

    return run


def rten(program: str, graph: Path, threads: int, folder: Path):
    # Its parser wants lists of integers one by one, as Python's onnx writes them.
    plain = folder / f"{graph.parent.name}.{graph.stem}.rten.onnx"
    onnx.save(onnx.load(graph), plain)
    command = [program, str(plain), "-n", "8", "-t", str(threads)]

    def run() -> list[float]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [float(ms) for ms in re.findall(r"outputs in ([\d.]+)ms", done.stdout + done.stderr)]

    return run


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([args.trainer, "bundle", "dump", args.f32, folder], check=True, capture_output=True)
        image = np.fromfile(folder / "0.input.f32", "<f4")
        side = int((image.size / 3) ** 0.5)
        image = image.reshape(1, 3, side, side)
        f32, int8 = args.f32 / "model.onnx", args.int8 / "model.onnx"
        graphs = {"f32": f32, "int8": int8, "f32, quantized by ONNX Runtime": quantized(f32, image, folder)}
        for extra in args.graph:
            name, _, file = extra.partition("=")
            graphs[name] = Path(file)
        candidates = {
            ("**ours**", "f32"): ours(args.trainer, args.f32, args.threads),
            ("**ours**", "int8"): ours(args.trainer, args.int8, args.threads),
        }
        for name, graph in graphs.items():
            candidates["ONNX Runtime", name] = onnx_runtime(graph, image, args.threads)
            candidates["OpenVINO", name] = open_vino(graph, image, args.threads, "f32")
            if args.rten:
                candidates["rten", name] = rten(args.rten, graph, args.threads, folder)
        candidates["OpenVINO, bf16", "f32"] = open_vino(f32, image, args.threads, "bf16")
        times = {key: [] for key in candidates}
        for _ in range(args.rounds):
            for key, run in candidates.items():
                if times[key] is None:
                    continue
                try:
                    times[key] += run()
                except subprocess.CalledProcessError as error:
                    print(f"{key[0]} does not run {key[1]}: {error.stderr[-200:]}")
                    times[key] = None
    measured = {key: sorted(values) for key, values in times.items() if values}
    reference = min(values[0] for (runtime, _), values in measured.items() if runtime == "ONNX Runtime")
    versions = f"ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__.split('-')[0]}"
    print(f"{versions}, {args.threads} thread{'s' if args.threads > 1 else ''}\n")
    print("| runtime | graph | min ms | median ms | best of ONNX Runtime / this |\n|---|---|---|---|---|")
    for (runtime, graph), values in sorted(measured.items(), key=lambda item: item[1][0]):
        median = values[len(values) // 2]
        print(f"| {runtime} | {graph} | {values[0]:.1f} | {median:.1f} | {reference / values[0]:.2f} |")


if __name__ == "__main__":
    main()
