"""SAM ViT-B saved in the ways that PyTorch has: checkpoints.py TRAINER [FOLDER]

Saves upstream's network with random weights (375 MB a file) in every way below, has `TRAINER weights inspect` count what fits and
`TRAINER weights convert` write safetensors, and compares each value with PyTorch's own. The last file has ViT-H's 2.5 GB; for it
the memory that `inspect` took is printed. Not part of CI: needs torch, safetensors, torchvision and segment-anything (PyPI), 9 GB of
disk and 9 GB of memory. tests/golden/make_checkpoints.py makes the small files that CI reads.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry


def channels_last(state: dict) -> dict:
    """Every convolution's weight as `model.to(memory_format=torch.channels_last)` leaves it."""
    return {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in state.items()
    }


def every_second(state: dict) -> dict:
    """Views of tensors twice as large."""
    return {name: torch.stack([tensor, -tensor], dim=-1)[..., 0] for name, tensor in state.items()}


def transposed(state: dict) -> dict:
    """The same values, the last dimension with the largest stride."""
    return {
        name: tensor.permute(*reversed(range(tensor.dim()))).contiguous().permute(*reversed(range(tensor.dim())))
        for name, tensor in state.items()
    }


def one_storage(state: dict) -> dict:
    """All tensors as views of one storage, as flattened parameters are."""
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = flat.split([tensor.numel() for tensor in state.values()])
    return {name: part.view(tensor.shape) for (name, tensor), part in zip(state.items(), parts)}


def expanded(state: dict) -> dict:
    """Biases that are zero from one number."""
    return {
        name: torch.zeros(1).expand(tensor.shape) if name.endswith(".bias") else tensor
        for name, tensor in state.items()
    }


def saved(folder: pathlib.Path, state: dict):
    """Name, file and what it holds, under upstream's names."""

    def save(name: str, value: object, held: dict, **options: object):
        path = folder / f"{name}.pth"
        torch.save(value, path, **options)
        return name, path, held

    yield save("plain", state, state)
    for change in (channels_last, every_second, transposed, one_storage, expanded):
        changed = change(state)
        yield save(change.__name__, changed, changed)
    torch.serialization.set_crc32_options(False)
    yield save("no_crc", state, state)
    torch.serialization.set_crc32_options(True)
    half = {name: tensor.half() for name, tensor in state.items()}
    moments = {"state": {i: {"exp_avg": tensor} for i, tensor in enumerate(half.values())}}
    yield save("half_with_optimizer", {"model": half, "optimizer": moments, "epoch": 3}, half)
    yield save("bfloat16", {"state_dict": {name: tensor.bfloat16() for name, tensor in state.items()}},
               {name: tensor.bfloat16() for name, tensor in state.items()})
    yield save("two_levels", {"checkpoint": {"net": state}}, state)
    yield save("data_parallel", {f"module.{name}": tensor for name, tensor in state.items()}, state)
    yield save("compiled", {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, state)
    yield save("protocol_4", state, state, pickle_protocol=4)


def run(trainer: str, *arguments: object) -> str:
    done = subprocess.run([trainer, *map(str, arguments)], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        sys.exit(f"{arguments}: exit status {done.returncode}\n{said}")
    if done.stderr:
        sys.exit(f"{arguments}: something on standard error\n{done.stderr}")
    return said


def peak_of(trainer: str, path: pathlib.Path) -> str:
    start = time.monotonic()
    child = subprocess.Popen([trainer, "weights", "inspect", path], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = time.monotonic() - start
    return f"status {status}, {seconds:.1f} s, at most {used.ru_maxrss / 1e6:.2f} GB of memory"


def main() -> None:
    trainer = sys.argv[1]
    folder = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    torch.manual_seed(0)
    state = {name: tensor.detach() for name, tensor in sam_model_registry["vit_b"]().state_dict().items()}
    wrong = 0
    for name, path, held in saved(folder, state):
        words = run(trainer, "weights", "inspect", path)
        fit = re.search(r"(\d+) tensors fit", words)
        fitting = int(fit.group(1)) if fit else 0
        out = folder / "out.safetensors"
        run(trainer, "weights", "convert", path, out, "--force")
        read = load_file(out)
        same = read.keys() == held.keys() and all(torch.equal(read[it], held[it].float()) for it in held)
        wrong += not (same and fitting == len(state))
        print(f"{name:20} {fitting} of {len(state)} fit, values {'the same' if same else 'WRONG'}", flush=True)
        path.unlink()
        out.unlink()
    del state, held, read
    path = folder / "vit_h.pth"
    torch.save(channels_last(sam_model_registry["vit_h"]().state_dict()), path)
    print(f"vit_h, {path.stat().st_size / 1e9:.2f} GB, channels_last: {peak_of(trainer, path)}")
    path.unlink()
    sys.exit(f"{wrong} files are wrong" if wrong else 0)


if __name__ == "__main__":
    main()
