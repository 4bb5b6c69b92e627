"""tract with the daemon's operations against other runtimes on the same graphs, in turn, and against LiteMedSAM.

    python3 benches/peers TRAINER F32_BUNDLE INT8_BUNDLE [--threads 1,2] [--rounds 8] [--results FILE | --dry-run]

TRAINER is the trainer program; its `bundle profile` measures ours. The others are ONNX Runtime and OpenVINO (PyPI:
onnxruntime, openvino, onnx) and rten (`cargo install rten-cli`). Each runs the student as the bundles have it, with
channels first, and as ONNX Runtime's own tool quantizes these. ONNX Runtime and OpenVINO run LiteMedSAM's two graphs
(`litemedsam.py`), too: what a user would take instead. OpenVINO computes f32 in bf16 where the CPU can, unless told
not to: both are rows. Prints a Markdown table for each number of threads and puts them into benches/RESULTS.md, unless
it is a dry run. `just peers` installs all of it.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime
import openvino
import results
import runtimes
from graphs import Network
from runtimes import Round, Times

# By runtime and network.
Candidates = dict[tuple[str, str], Round]

REPOSITORY = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/peers", description=__doc__.splitlines()[0])
    parser.add_argument("trainer", help="program")
    parser.add_argument("f32", type=Path, help="bundle")
    parser.add_argument("int8", type=Path, help="bundle")
    parser.add_argument("--threads", type=lambda text: [int(it) for it in text.split(",")], default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--lite-medsam", type=Path, metavar="FOLDER", default=REPOSITORY / ".scanside/lite_medsam")
    parser.add_argument("--rten", type=Path, metavar="PROGRAM", default=REPOSITORY / ".scanside/rten/bin/rten")
    parser.add_argument("--results", type=Path, metavar="FILE", default=REPOSITORY / "benches/RESULTS.md")
    parser.add_argument("--dry-run", action="store_true", help="print the tables, leave the file of results")
    args = parser.parse_args()
    if not (args.dry_run or args.results.is_file()):
        parser.error(f"there is no {args.results}")
    return args


def golden_image(trainer: str, bundle: Path, folder: Path) -> np.ndarray:
    subprocess.run([trainer, "bundle", "dump", bundle, folder], check=True, capture_output=True)
    image = np.fromfile(folder / "0.input.f32", "<f4")
    side = int((image.size / 3) ** 0.5)
    return image.reshape(1, 3, side, side)


def networks(args: argparse.Namespace, folder: Path) -> dict[str, Network]:
    """By what the table calls them."""
    image = golden_image(args.trainer, args.f32, folder)
    f32 = Network([args.f32 / "model.onnx"], {"image": image})
    channels_first = graphs.with_channels_first(f32, folder / "channels_first")
    found = {
        "f32": f32,
        "int8": Network([args.int8 / "model.onnx"], {"image": image}, is_quantized=True),
        "f32, quantized by ONNX Runtime": graphs.quantized(f32, folder / "f32"),
        "channels first, f32": channels_first,
        "channels first, quantized by ONNX Runtime": graphs.quantized(channels_first, folder / "quantized"),
    }
    if args.lite_medsam.exists():
        lite_medsam = graphs.lite_medsam(args.lite_medsam)
        found["LiteMedSAM, one box"] = lite_medsam
        found["LiteMedSAM, encoder quantized by ONNX Runtime"] = graphs.quantized(lite_medsam, folder / "lite_medsam")
    return found


def candidates(args: argparse.Namespace, found: dict[str, Network], threads: int, folder: Path) -> Candidates:
    made = {}
    for name in ("f32", "int8"):
        bundle = getattr(args, name)
        made["**ours**", name] = runtimes.ours(args.trainer, bundle, threads)
        made["**ours, half precision**", name] = runtimes.ours(args.trainer, bundle, threads, "--half-precision")
    for n, (name, network) in enumerate(found.items()):
        made["ONNX Runtime", name] = runtimes.onnx_runtime(network, threads)
        made["OpenVINO", name] = runtimes.open_vino(network, threads, "f32")
        if runtimes.open_vino_has_bf16() and not network.is_quantized:
            made["OpenVINO, bf16", name] = runtimes.open_vino(network, threads, "bf16")
        if args.rten.exists() and len(network.files) == 1:
            made["rten", name] = runtimes.rten(args.rten, network, threads, folder / f"rten.{threads}.{n}")
    return made


def measured(made: Candidates, rounds: int) -> tuple[results.Table, list[str]]:
    """And what does not run, in words."""
    times: dict[tuple[str, str], list[Times]] = {key: [] for key in made}
    failures = []
    for n in range(rounds):
        for key in list(times):
            try:
                times[key].append(made[key]())
            except subprocess.CalledProcessError as error:
                del times[key]
                failures.append(f"{key[0]} does not run {key[1]}: {error.stderr.strip()[-200:]}")
        print(f"round {n + 1} of {rounds}", file=sys.stderr)
    return {key: Times.of_rounds(values) for key, values in times.items()}, failures


def about(args: argparse.Namespace) -> list[str]:
    versions = [f"ONNX Runtime {onnxruntime.__version__}", f"OpenVINO {openvino.__version__.split('-')[0]}"]
    missing = []
    if args.rten.exists():
        versions.append(results.output(args.rten, "--version"))
    else:
        missing.append("rten is not installed, and so has no rows.")
    if args.lite_medsam.exists():
        graph = onnx.load(args.lite_medsam / "encoder.onnx")
        versions.append(f"LiteMedSAM as {graph.producer_name} {graph.producer_version} exports it")
    else:
        missing.append("LiteMedSAM's graphs are not there, and so have no rows.")
    return [", ".join(versions) + ".", *missing]


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = networks(args, folder)
        tables, words = {}, about(args)
        for threads in args.threads:
            tables[threads], failures = measured(candidates(args, found, threads, folder), args.rounds)
            words += [it for it in failures if it not in words]
    section = results.section(tables, args.rounds, words)
    print(section)
    if not args.dry_run:
        results.insert(args.results, section)


if __name__ == "__main__":
    main()
