"""The student's f32 graph as most exporters would write it: TinyViT's 1x1 convolutions as convolutions.

Ours has them, and what stands between them, on tokens (HW, C): so they are the linear layers that our kernels know.
Other runtimes are faster with maps (1, C, H, W). Both forms give the same logits.
"""

import re
from math import isqrt

import numpy as np
import onnx
from onnx import helper, numpy_helper

CONVOLUTION = re.compile(r".*/conv\d\.weight")


class Rewriting:
    def __init__(self, graph: onnx.GraphProto):
        self.graph = graph
        self.shapes = {it.name: [d.dim_value for d in it.type.tensor_type.shape.dim] for it in graph.value_info}
        self.constants = {it.name: numpy_helper.to_array(it) for it in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        # Names of a map (1, C, H, W): by tokens (HW, C) that have its values, by the step between them (C, HW), and by
        # what the old graph calls it.
        self.of_tokens: dict[str, str] = {}
        self.of_flat: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        # Weights by products that wait for their bias.
        self.products: dict[str, tuple[str, np.ndarray]] = {}

    def constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = values
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def reshape(self, value: str, shape: list[int], output: str) -> str:
        return self.add("Reshape", [value, self.constant(f"shape/{shape}", np.array(shape))], output)

    def to_map(self, tokens: str) -> str:
        if tokens not in self.of_tokens:
            n_pixels, n_channels = self.shapes[tokens]
            side = isqrt(n_pixels)
            flat = self.add("Transpose", [tokens], f"{tokens}/turned", perm=[1, 0])
            self.of_tokens[tokens] = self.reshape(flat, [1, n_channels, side, side], f"{tokens}/as_map")
        return self.of_tokens[tokens]

    def have_map(self, tokens: str, made: str) -> None:
        """Tokens stay to be had: what nobody takes of them goes in the end."""
        self.of_tokens[tokens] = made
        flat = self.reshape(made, self.shapes[tokens][::-1], f"{made}/flat")
        self.add("Transpose", [flat], tokens, perm=[1, 0])

    def is_pointwise(self, node: onnx.NodeProto) -> bool:
        def fits(name: str) -> bool:
            return name in self.of_tokens or (name in self.constants and self.constants[name].ndim == 0)

        return node.op_type in ("Add", "Mul", "Erf") and all(map(fits, node.input))

    def take(self, node: onnx.NodeProto) -> None:
        first, output = node.input[0], node.output[0]
        second = node.input[1] if len(node.input) > 1 else ""
        if node.op_type == "MatMul" and CONVOLUTION.fullmatch(second):
            self.products[output] = self.to_map(first), self.constants[second]
        elif first in self.products:
            image, weights = self.products[first]
            name = self.constant(f"{output}/kernel", np.ascontiguousarray(weights.T)[:, :, None, None])
            self.have_map(output, self.add("Conv", [image, name, second], f"{output}/map", kernel_shape=[1, 1]))
        elif self.is_pointwise(node):
            inputs = [self.of_tokens.get(it, it) for it in node.input]
            self.have_map(output, self.add(node.op_type, inputs, f"{output}/map"))
        elif node.op_type == "Reshape" and first in self.of_flat:
            self.renamed[output] = self.of_flat[first]
        else:
            if node.op_type == "Reshape" and len(self.shapes.get(first, [])) == 4:
                self.of_flat[output] = first
            if node.op_type == "Transpose" and first in self.of_flat:
                self.of_tokens[output] = self.of_flat[first]
            if node.op_type == "Transpose" and first in self.of_tokens:
                self.of_flat[output] = self.of_tokens[first]
            self.nodes.append(node)


def channels_first(model: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    rewriting = Rewriting(model.graph)
    for node in model.graph.node:
        node.input[:] = [rewriting.renamed.get(it, it) for it in node.input]
        rewriting.take(node)
    wanted = {it.name for it in model.graph.output}
    kept = []
    for node in reversed(rewriting.nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    unused = [it for it in model.graph.initializer if it.name not in wanted]
    for it in unused:
        model.graph.initializer.remove(it)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(reversed(kept))
    return model
