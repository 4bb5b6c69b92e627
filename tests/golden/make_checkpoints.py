"""Checkpoints as PyTorch saves them, each of a few hundred bytes, for models/nets/src/checkpoint/tests.rs.

python tests/golden/make_checkpoints.py    (torch 2.15.0; writes tests/golden/checkpoints/)

Tensors count from 0 unless a comment says otherwise, so that a test knows every value.
"""

import argparse
import collections
import pathlib
import warnings
import zipfile

import torch

OUT = pathlib.Path(__file__).parent / "checkpoints"


def counted(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    n = int(torch.tensor(size).prod())
    return torch.arange(n, dtype=torch.float32).reshape(size).to(dtype)


def save(name: str, value: object, **options: object) -> None:
    torch.save(value, OUT / name, **options)


def state_dict() -> dict:
    return {"w": counted(2, 3), "b": counted(2)}


def layouts() -> dict:
    base = counted(4, 6)
    shared = counted(3)
    return {
        "channels_last": counted(4, 3, 2, 2).contiguous(memory_format=torch.channels_last),
        "channels_last_3d": counted(2, 2, 2, 2, 2).contiguous(memory_format=torch.channels_last_3d),
        "columns": base[:, 2:4],
        "every_second": base[::2, 1::2],
        "transposed": counted(2, 3).t(),
        "permuted": counted(2, 3, 4).permute(2, 0, 1),
        "expanded": counted(3, 1).expand(3, 4),
        "one_for_all": torch.tensor(7.0).expand(2, 5),
        "zero_d": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "view": base.view(-1)[5:9],
        "tied": shared,
        "tied_too": shared,
        "parameter": torch.nn.Parameter(counted(2)),
        "buffer": torch.nn.Buffer(counted(2)),
        "overlapping": counted(4).as_strided((3, 2), (1, 1)),
        # -0, -2, -4: the odd halves of 0 + 0i, 1 + 2i, 2 + 4i under a lazy minus.
        "negated": torch.complex(counted(3), 2 * counted(3)).conj().imag,
    }


def types() -> dict:
    found = {str(dtype).removeprefix("torch."): counted(3, dtype=dtype) for dtype in (
        torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int8, torch.int16, torch.int32,
        torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn,
        torch.float8_e5m2)}
    found["sparse"] = counted(2, 2).to_sparse()
    found["quantized"] = torch.quantize_per_tensor(counted(3), 0.5, 0, torch.qint8)
    found["meta"] = torch.empty(3, device="meta")
    return found


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    save("layouts.pth", layouts())
    save("types.pth", types())
    torch.serialization.set_crc32_options(False)
    save("no_crc.pth", state_dict())
    torch.serialization.set_crc32_options(True)
    net = torch.nn.BatchNorm2d(2)
    save("batch_norm.pth", net.state_dict())
    save("protocol_4.pth", state_dict(), pickle_protocol=4)
    save("protocol_5.pth", collections.OrderedDict(state_dict()), pickle_protocol=5)
    moments = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": counted(2)}}, "param_groups": [{"lr": 1e-3}]}
    save("training.pth", {"model": state_dict(), "optimizer": moments, "epoch": 3, "args": argparse.Namespace(lr=1e-3)})
    save("mean_beside.pth", {"mean": counted(1), "state_dict": state_dict()})
    save("nested.pth", {"checkpoint": {"net": state_dict()}, "optimizer": moments})
    save("several.pth", {"student": state_dict(), "teacher": {"w": 10 * counted(2, 3), "b": counted(2)}})
    save("list_of_state_dicts.pth", [state_dict(), moments])
    save("list.pth", [counted(2), counted(3)])
    save("bare.pth", counted(2))
    save("numbers.pth", {0: counted(2), 1: counted(3)})
    save("optimizer.pth", {"optimizer": moments})
    save("no_floats.pth", {"mask": counted(2, dtype=torch.bool), "ids": counted(2, dtype=torch.int64)})
    save("no_tensors.pth", {"epoch": 3, "loss": [0.5, 0.25]})
    save("module.pth", torch.nn.Linear(2, 2))
    save("before_1_6.pth", state_dict(), _use_new_zipfile_serialization=False)
    torch.jit.script(Net()).save(str(OUT / "script.pt"))
    with zipfile.ZipFile(OUT / "training.pth") as stored, zipfile.ZipFile(
        OUT / "packed_anew.pth", "w", zipfile.ZIP_DEFLATED
    ) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))


if __name__ == "__main__":
    main()
