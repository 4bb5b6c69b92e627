"""One training step of SAM in PyTorch, beside ours: pytorch_step.py TRAINER LIST [vit_b] [--rounds 3]

LoRA of rank 4 on q and v of every encoder block and decoder attention, Dice + CE, AdamW, batch 1, f32, two threads, on
random weights: upstream's segment_anything for the ViT. Both programs run in turn; the first step of each is left out.
Prints seconds a step, peak memory and the ratio. Needs torch and segment-anything (PyPI).
"""

import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS = 3


def torch_steps(encoder: str) -> None:
    """Prints the seconds of each step and the peak in GiB; runs in a process of its own."""
    import torch
    from segment_anything import sam_model_registry
    from torch import nn
    from torch.nn import functional

    class Lora(nn.Module):
        """On some rows of a linear layer's output."""

        def __init__(self, base: nn.Linear, rows: list[slice]):
            super().__init__()
            self.base, self.rows = base, rows
            width = (rows[0].stop or base.out_features) - (rows[0].start or 0)
            self.a = nn.ModuleList(nn.Linear(base.in_features, 4, bias=False) for _ in rows)
            self.b = nn.ModuleList(nn.Linear(4, width, bias=False) for _ in rows)

        def forward(self, x):
            y = self.base(x)
            for rows, a, b in zip(self.rows, self.a, self.b):
                y[..., rows] = y[..., rows] + b(a(x))
            return y

    torch.set_num_threads(2)
    torch.manual_seed(0)
    sam = sam_model_registry[encoder]()
    for parameter in [*sam.image_encoder.parameters(), *sam.mask_decoder.transformer.parameters()]:
        parameter.requires_grad_(False)
    for block in sam.image_encoder.blocks:
        dim = block.attn.qkv.in_features
        block.attn.qkv = Lora(block.attn.qkv, [slice(0, dim), slice(2 * dim, 3 * dim)])
    transformer = sam.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        for name in ("q_proj", "v_proj"):
            base = getattr(attention, name)
            setattr(attention, name, Lora(base, [slice(0, base.out_features)]))
    trains = [parameter for parameter in sam.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trains, lr=1e-4, weight_decay=0.1)
    image = torch.randn(1, 3, 1024, 1024)
    labels = torch.randint(0, 2, (1, 1024, 1024))
    for _ in range(STEPS):
        start = time.monotonic()
        embedding = sam.image_encoder(image)
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        pe = sam.prompt_encoder.get_dense_pe()
        logits, _ = sam.mask_decoder(embedding, pe, sparse, dense, True)
        logits = functional.interpolate(logits[:, :2], (1024, 1024), mode="bilinear")
        target = functional.one_hot(labels, 2).permute(0, 3, 1, 2).float()
        p = logits.sigmoid()
        overlap, total = (p * target).sum((2, 3)), (p**2).sum((2, 3)) + target.sum((2, 3))
        loss = (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean() + functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(time.monotonic() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def theirs(encoder: str) -> tuple[list[float], float]:
    done = subprocess.run([sys.executable, __file__, "--torch", encoder], capture_output=True, text=True, check=True)
    *steps, peak = map(float, done.stdout.split())
    return steps[1:], peak


def ours(trainer: str, data: str, encoder: str) -> tuple[list[float], float]:
    """Stops the run after as many steps."""
    sys.path.insert(0, str(Path(__file__).parent))
    from eighteen import command, four_images, metrics, peak_gib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        four, run = Path(folder) / "four.csv", Path(folder) / "run"
        four_images(Path(data), four)
        arguments = command(trainer, four, run, (encoder, "encoder-decoder", "lora"), 2)
        child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times, peak = [], 0.0
        while child.poll() is None and len(times) < STEPS:
            peak = max(peak, peak_gib(child.pid))
            times += [time.monotonic()] * (len(metrics(run)) - len(times))
            time.sleep(0.02)
        child.kill()
        child.wait()
    return [b - a for a, b in zip(times, times[1:])], peak


def main() -> None:
    trainer, data = sys.argv[1:3]
    encoder = sys.argv[3] if len(sys.argv) > 3 and re.match("vit_", sys.argv[3]) else "vit_b"
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 3
    seconds, peaks = {"ours": [], "PyTorch": []}, {}
    for _ in range(rounds):
        for name, (steps, peak) in (("ours", ours(trainer, data, encoder)), ("PyTorch", theirs(encoder))):
            seconds[name] += steps
            peaks[name] = max(peak, peaks.get(name, 0))
    median = {name: statistics.median(steps) for name, steps in seconds.items()}
    for name, steps in seconds.items():
        print(f"{name}: {len(steps)} steps, min {min(steps):.1f} s, median {median[name]:.1f} s, peak {peaks[name]:.1f} GiB")
    print(f"ratio of medians: {median['ours'] / median['PyTorch']:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--torch":
        torch_steps(sys.argv[2])
    else:
        main()
