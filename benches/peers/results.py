"""The tables and what one needs to know to read them, as a section of benches/RESULTS.md."""

import datetime
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from runtimes import RUNS_A_ROUND, Times

# What the CPU's fastest products are, by lscpu's flag.
VECTORS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimddp": "dot product",
}

# By runtime and graph.
Table = dict[tuple[str, str], Times]


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cpu() -> str:
    """Model and how it multiplies, from lscpu: a cloud's model name alone says little."""
    lines = [line.partition(":") for line in output("env", "LC_ALL=C", "lscpu").splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = fields.get("Flags", "").split()
    vectors = next((words for flag, words in VECTORS.items() if flag in flags), fields["Architecture"])
    family = f"family {fields.get('CPU family', '-')} model {fields.get('Model', '-')}"
    return f"{fields['Model name']} ({family}, {vectors}), {len(os.sched_getaffinity(0))} cores"


def heading() -> str:
    return f"## {datetime.date.today()}, {cpu()}, `just peers`"


def rows(table: Table) -> str:
    """Fastest first."""
    reference = min(times.least for (runtime, _), times in table.items() if runtime == "ONNX Runtime")
    lines = ["| runtime | graph | min ms | median ms | best of ONNX Runtime / this |", "|---|---|---|---|---|"]
    for (runtime, graph), times in sorted(table.items(), key=lambda item: item[1].least):
        ratio = reference / times.least
        lines.append(f"| {runtime} | {graph} | {times.least:.1f} | {times.median:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def section(tables: dict[int, Table], rounds: int, about: list[str]) -> str:
    """`about` says what ran, of which versions, and what could not."""
    repository = Path(__file__).parents[2]
    commit = output("git", "-C", repository, "describe", "--always", "--dirty")
    command = " ".join(["python", *sys.argv])
    load = "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg())
    words = [
        f"`{command}`, commit {commit}.",
        *about,
        f"In turn, {rounds} times {RUNS_A_ROUND} runs each: the shortest, and the median of the rounds' medians."
        " The last column is the shortest run of ONNX Runtime on any graph by the row's.",
        f"Load of the last 1, 5 and 15 minutes at the end: {load}.",
    ]
    parts = [heading(), textwrap.fill(" ".join(words), 140, break_long_words=False, break_on_hyphens=False)]
    for threads, table in tables.items():
        parts += ["One thread:" if threads == 1 else f"{threads} threads:", rows(table)]
    return "\n\n".join(parts) + "\n"


def insert(file: Path, new: str) -> None:
    """Newest first: below the introduction, before the first section. The table before it goes to history/peers.md."""
    introduction, mark, sections = file.read_text().partition("\n## ")
    if not mark:
        sys.exit(f"{file} has no section that the new one could stand before")
    older, rest = [], []
    for section in sections.split("\n## "):
        is_older = section.partition("\n")[0].endswith("`just peers`")
        (older if is_older else rest).append(section.rstrip("\n") + "\n")
    file.write_text("\n## ".join([f"{introduction}\n{new}", *rest]))
    history = file.parent / "history/peers.md"
    if older and history.exists():
        introduction, mark, sections = history.read_text().partition("\n## ")
        history.write_text("\n## ".join([introduction, *older, sections]))
