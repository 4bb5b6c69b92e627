"""What is run: the student's graphs as they are and as other runtimes like them best, and LiteMedSAM's."""

import logging
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from channels_first import channels_first
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

Values = dict[str, np.ndarray]

# Of sums in another order; `tests/peers/onnx_runtime.py` has the same.
LOGIT_TOLERANCE = 1e-3


class Network(NamedTuple):
    """Graphs one after the other; each takes by name what it needs of the inputs and of what those before it gave."""

    files: list[Path]
    inputs: Values
    is_quantized: bool = False


def sessions(network: Network, threads: int) -> list[onnxruntime.InferenceSession]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return [onnxruntime.InferenceSession(file, options, providers=providers) for file in network.files]


def needed(session: onnxruntime.InferenceSession, values: Values) -> Values:
    return {it.name: values[it.name] for it in session.get_inputs()}


def with_channels_first(network: Network, folder: Path) -> Network:
    (file,) = network.files
    folder.mkdir()
    rewritten = network._replace(files=[folder / file.name])
    onnx.save(channels_first(onnx.load(file)), rewritten.files[0])
    logits = [sessions(it, 0)[0].run(None, it.inputs)[0] for it in (network, rewritten)]
    difference = np.abs(logits[0] - logits[1]).max()
    if not difference <= LOGIT_TOLERANCE:
        sys.exit(f"channels first, logits differ by {difference}")
    return rewritten


class OneExample(CalibrationDataReader):
    def __init__(self, values: Values):
        self.examples = iter([values])

    def get_next(self) -> Values | None:
        return next(self.examples, None)


def quantized(network: Network, folder: Path) -> Network:
    """Its first graph with the QuantizeLinear and DequantizeLinear that ONNX Runtime's own tool puts.

    Only around products with weights: with channels first that takes 26 ms in ONNX Runtime and 22 in OpenVINO, and 31
    and 37 around all that the tool knows, its default. It is calibrated with one image, which does for times; masks of
    the student have a Dice of 0.97 with those in f32 then, where the int8 bundle's have 0.997.
    """
    folder.mkdir()
    file, *others = network.files
    prepared, out = folder / "prepared.onnx", folder / file.name
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    # Of every LayerNorm, that its weights have no second axis.
    logging.disable(logging.WARNING)
    quantize_static(
        prepared,
        out,
        OneExample({"image": network.inputs["image"]}),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )
    logging.disable(logging.NOTSET)
    return network._replace(files=[out, *others], is_quantized=True)


def lite_medsam(folder: Path) -> Network:
    """One image and one box, for what `litemedsam.py` wrote."""
    image = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    box = np.array([[60, 70, 180, 190]], np.float32)
    return Network([folder / "encoder.onnx", folder / "decoder.onnx"], {"image": image, "box": box})
