"""Every command of README.md and docs/*.md, run as a reader would: python3 tests/docs/run.py [--binaries DIR] [PAGE...]

A page is run in a folder of its own that looks like a fresh clone: the repository's files, with `target/debug` (or
--binaries) on PATH. Its `sh` blocks are typed into one bash, command after command; each has to end with status 0
within --timeout seconds. A command that ends in `&` goes on in the background until the page is done, and the next one
waits until it is up if it is a server or a subscriber. `<!-- first: PAGE.md#section -->` in a page has the commands of
that section run before its own.

What differs from a reader's machine:
- `cargo run --bin X -- ...` runs X of --binaries.
- Ports (PORTS) are replaced by free ones, in commands and in the files of config/ and docs/examples/.
- `python3` is the Python that runs this script: .scanside/venv/bin/python has what the pages' programs import.

A block that cannot be run here says why, as "sh no-run: REASON". Any other block needs a language, so that none is
passed over; one whose language is followed by a path has to be that file's text. Messages that docs/troubleshooting.md
quotes have to stand in the sources. Needs mosquitto, DCMTK, curl and openssl.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# MQTT, its TLS, C-STORE to us, C-STORE to a PACS, HTTP, between processes that train.
PORTS = ("1883", "8883", "11112", "11113", "8790", "29500")
SUBSCRIBERS = ("mosquitto_sub", "python3")
LANGUAGES = {"json", "python", "text", "toml", "ini"}
# A message in the first column of a table.
QUOTED = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


class Block(NamedTuple):
    line: int
    info: str
    text: str
    section: str


class Fault(Exception):
    """What is wrong with a page."""


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def blocks(page: Path) -> list[Block]:
    found, section, start, info, lines = [], "", None, "", []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```") and start is None:
            start, info, lines = number, line[3:].strip(), []
        elif line.startswith("```"):
            found.append(Block(start, info, "\n".join(lines) + "\n", section))
            start = None
        elif start is not None:
            lines.append(line)
        elif line.startswith("#"):
            section = slug(line.lstrip("#"))
    return found


def commands(text: str) -> list[str]:
    """The smallest runs of lines that bash takes for complete."""
    found, lines = [], []
    for line in text.splitlines():
        lines.append(line)
        command = "\n".join(lines)
        read = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
        if not line.endswith("\\") and read.returncode == 0 and not read.stderr:
            if any(line.strip() and not line.lstrip().startswith("#") for line in lines):
                found.append(command)
            lines = []
    if lines:
        raise Fault(f"bash takes this for no command: {lines[0]}")
    return found


def free_ports() -> dict[str, str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    found = {port: str(it.getsockname()[1]) for port, it in zip(PORTS, sockets)}
    for it in sockets:
        it.close()
    return found


def listens(port: str) -> bool:
    """Without a connection, which the server would answer."""
    wanted = f":{int(port):04X}"
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()[1:]]
    return any(row[1].endswith(wanted) and row[3] == "0A" for row in rows)


class Reader:
    """A clone, and the bash that a page's commands are typed into."""

    def __init__(self, work: Path, binaries: Path, timeout_s: float) -> None:
        self.work, self.timeout_s = work, timeout_s
        self.ports = free_ports()
        self.log = work.with_suffix(".log")
        self.clone(binaries)
        path = os.pathsep.join([str(binaries), str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
        reading, writing = os.pipe()
        self.answers = os.fdopen(reading)
        self.bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=work,
            env={**os.environ, "PATH": path, "TMPDIR": str(work.parent)},
            stdin=subprocess.PIPE,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            start_new_session=True,
            text=True,
        )
        self.writing = writing

    def clone(self, binaries: Path) -> None:
        for path in ROOT.iterdir():
            if path.name in ("config", "docs"):
                shutil.copytree(path, self.work / path.name)
            elif path.name not in ("target", "runs", ".git"):
                (self.work / path.name).symlink_to(path)
        for path in [*self.work.glob("config/*"), *self.work.glob("docs/examples/*")]:
            if path.is_file():
                path.write_text(self.with_ports(path.read_text()))
        (self.work / "target").mkdir()
        (self.work / "target/debug").symlink_to(binaries)

    def with_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: self.ports[found[0]], text)

    def run(self, command: str) -> None:
        typed = self.with_ports(re.sub(r"\bcargo run --bin (\S+) --(?= )", r"\1", command))
        clients = self.n_clients()
        # In braces, so that a command that reads its input does not read the next one.
        self.bash.stdin.write(f"{{ {typed}\n}} </dev/null\necho $? >&{self.writing}\n")
        self.bash.stdin.flush()
        status = self.answer()
        if status != "0":
            raise Fault(f"`{command}` ended with status {status}")
        if typed.rstrip().endswith("&"):
            self.wait_for(typed, clients)

    def answer(self) -> str:
        signal.signal(signal.SIGALRM, alarm)
        signal.setitimer(signal.ITIMER_REAL, self.timeout_s)
        try:
            return self.answers.readline().strip() or "none, the shell ended"
        except TimeoutError:
            return f"none after {self.timeout_s:.0f} s"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def wait_for(self, command: str, clients: int) -> None:
        program = shlex.split(command)[0]
        if program == "mosquitto":
            ports = re.findall(r"^listener (\d+)", (self.work / shlex.split(command)[2]).read_text(), re.MULTILINE)
            is_up = lambda: all(map(listens, ports))
        elif program == "storescp":
            is_up = lambda: listens(self.ports["11113"])
        elif program == "scansided":
            is_up = self.is_online
        elif program in SUBSCRIBERS:
            is_up = lambda: self.n_clients() > clients
        else:
            return
        self.bash.stdin.write(f"echo $! >&{self.writing}\n")
        self.bash.stdin.flush()
        process = Path("/proc") / self.answer()
        end = time.monotonic() + self.timeout_s
        while not is_up():
            if time.monotonic() > end or not process.exists():
                raise Fault(f"`{command}` ended, or is not up after {self.timeout_s:.0f} s")
            time.sleep(0.2)
        # A subscriber that is connected has yet to subscribe.
        time.sleep(1 if program in SUBSCRIBERS else 0)

    def is_online(self) -> bool:
        ask = ["mosquitto_sub", "-p", self.ports["1883"], "-t", "+/v1/+/availability", "-C", "1", "-W", "2"]
        return "online" in subprocess.run(ask, capture_output=True, text=True, check=False).stdout

    def n_clients(self) -> int:
        """That mosquitto has seen."""
        return self.log.read_text(errors="replace").count("New client connected")

    def close(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.bash.pid, how)
                self.bash.wait(20)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        os.close(self.writing)


def alarm(*_: object) -> None:
    raise TimeoutError


def checked(page: Path) -> list[Block]:
    """The page's blocks, each of a kind that is known."""
    found = blocks(page)
    for block in found:
        language, _, rest = block.info.partition(" ")
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if language == "sh":
            if rest and not re.fullmatch(r"no-run: \S.*", rest):
                raise Fault(f"{where}: `{block.info}`: say \"sh\", or \"sh no-run: REASON\"")
        elif language not in LANGUAGES:
            raise Fault(f"{where}: a block without a language that is known here, so its commands would not be run")
        elif rest and (ROOT / rest).read_text() != block.text:
            raise Fault(f"{where}: this is not the text of {rest}")
    return found


def anchors(page: Path) -> None:
    """Links to a section of a page find it."""
    for target in re.findall(r"\]\(([^)\s]*#[^)]*)\)", page.read_text()):
        name, _, section = target.partition("#")
        if "://" in name:
            continue
        text = (page.parent / name if name else page).read_text()
        if section not in map(slug, re.findall(r"^#+ (.*)$", text, re.MULTILINE)):
            raise Fault(f"{page.relative_to(ROOT)}: {target} leads to no section")


def first(page: Path) -> list[str]:
    """Commands of the sections that a page has run before it."""
    found = []
    for name, section in re.findall(r"<!-- first: (\S+)#(\S+) -->", page.read_text()):
        of_section = [it for it in blocks(page.parent / name) if it.info == "sh" and it.section == section]
        if not of_section:
            raise Fault(f"{page.name}: {name} has no commands in a section {section}")
        found += [command for it in of_section for command in commands(it.text)]
    return found


def quotes(page: Path) -> int:
    """Messages of a page's tables stand in the sources; `...` stands for what differs."""
    sources = [path.read_text() for folder in ("daemon", "models") for path in (ROOT / folder).rglob("*.rs")]
    # Strings go on in the next line behind a backslash.
    text = re.sub(r"\s+", " ", re.sub(r"\\\n\s*", "", "\n".join(sources)).replace('\\"', '"'))
    found = QUOTED.findall(page.read_text())
    for message in found:
        for part in message.split("..."):
            if part.strip() not in text:
                raise Fault(f"{page.name}: no program says `{part.strip()}`")
    return len(found)


def run_page(page: Path, arguments: argparse.Namespace) -> tuple[int, list[str]]:
    """How many commands were run, and why others were not."""
    found = checked(page)
    anchors(page)
    not_run = [it for it in found if it.info.startswith("sh no-run: ")]
    reasons = [f"{it.info[len('sh no-run: '):]}: {len(commands(it.text))}" for it in not_run]
    to_run = [(it, command) for it in found if it.info == "sh" for command in commands(it.text)]
    if not to_run:
        return 0, reasons
    with tempfile.TemporaryDirectory(prefix="scanside-docs-") as folder:
        work = Path(folder) / "clone"
        work.mkdir()
        reader = Reader(work, arguments.binaries.resolve(), arguments.timeout)
        try:
            for command in first(page):
                reader.run(command)
            for block, command in to_run:
                try:
                    reader.run(command)
                except Fault as fault:
                    raise Fault(f"{page.relative_to(ROOT)}:{block.line}: {fault}") from None
        except Fault:
            print(reader.log.read_text(errors="replace")[-6000:])
            raise
        finally:
            reader.close()
            if arguments.log:
                arguments.log.mkdir(parents=True, exist_ok=True)
                shutil.copy(reader.log, arguments.log / f"{page.stem}.log")
    return len(to_run), reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="*", metavar="PAGE", help="all unless given")
    parser.add_argument("--binaries", type=Path, default=ROOT / "target/debug", help="folder of scansided and trainer")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a command may take")
    parser.add_argument("--log", type=Path, help="folder for what each page's commands printed")
    arguments = parser.parse_args()
    # So that nothing is left running when a run is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    pages = arguments.pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    n_run, n_not_run, faults = 0, 0, []
    for page in map(Path.resolve, pages):
        began = time.monotonic()
        try:
            count, reasons = run_page(page, arguments)
        except Fault as fault:
            faults.append(str(fault))
            print(f"FAILED {fault}", flush=True)
            continue
        n_run += count
        print(f"{page.relative_to(ROOT)}: {count} commands run in {time.monotonic() - began:.0f} s", flush=True)
        for reason in reasons:
            n_not_run += int(reason.rpartition(": ")[2])
            print(f"    not run, {reason}")
    troubleshooting = ROOT / "docs/troubleshooting.md"
    try:
        if troubleshooting in map(Path.resolve, pages):
            print(f"{troubleshooting.name}: {quotes(troubleshooting)} messages stand in the sources")
    except Fault as fault:
        faults.append(str(fault))
    print(f"{n_run} commands run, {n_not_run} not run")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
