"""Brokers that know nothing but MQTT 3.1.1, hung, killed and away while images come: no result is lost.

mqtt311.py SCANSIDED BUNDLE IMAGE...

The brokers are amqtt (PyPI) and aedes (npm, under .scanside/aedes); the subscriber is paho, in 3.1.1. Both brokers keep their
sessions in memory, so a kill takes with it what they acknowledged and had not handed on: that is replayed, and said.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho

HERE = Path(__file__).resolve().parents[2]
AEDES = HERE / ".scanside" / "aedes" / "node_modules"
PATIENCE = 180
BATCH = 40

AMQTT_CONF = """listeners:
  default: {{type: tcp, bind: "127.0.0.1:{port}"}}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}
"""
AEDES_JS = """
const {{ Aedes }} = require("aedes");
Aedes.createBroker().then((broker) => require("net").createServer(broker.handle).listen({port}, "127.0.0.1"));
"""
DAEMON = """node = "box-1"
[model]
bundle = "{bundle}"
[state]
directory = "state"
min_free_bytes = 0
[[folder]]
name = "inbox"
directory = "inbox"
poll_interval_ms = 100
stable_ms = 50
[mqtt]
host = "127.0.0.1"
port = {port}
connect_timeout_s = 2
ack_timeout_ms = 2000
backoff_max_ms = 2000
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, done, patience: float = PATIENCE):
    end = time.monotonic() + patience
    while not (result := done()):
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: {what} did not happen in {patience} s")
        time.sleep(0.1)
    return result


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command(name: str, port: int, work: Path) -> list[str]:
    if name == "amqtt":
        (work / "amqtt.yaml").write_text(AMQTT_CONF.format(port=port))
        return [str(Path(sys.executable).parent / "amqtt"), "-c", str(work / "amqtt.yaml")]
    node = AEDES / "node" / "bin" / "node"
    return [str(node) if node.exists() else "node", "-e", AEDES_JS.format(port=port)]


class Broker:
    def __init__(self, name: str, port: int, work: Path):
        self.command, self.port, self.work = command(name, port, work), port, work
        self.start()

    def start(self):
        with (self.work / "broker.log").open("ab") as log:
            environment = {**os.environ, "NODE_PATH": str(AEDES)}
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment, cwd=self.work)
        wait_for(f"{self.command[0]} listening", lambda: listens(self.port))

    def kill(self):
        self.process.kill()
        self.process.wait()


class Subscriber:
    """Everything below the node's root; results by the digest of their image."""

    def __init__(self, port: int):
        self.results, self.info, self.replayed = {}, None, 0
        self.stands = threading.Event()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, "viewer", clean_session=False, protocol=paho.MQTTv311)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda client, *_: client.subscribe("scanside/v1/box-1/#", qos=1)
        client.on_subscribe = lambda *_: self.stands.set()
        client.on_disconnect = lambda *_: self.stands.clear()
        client.on_message = self.hear
        client.connect("127.0.0.1", port, keepalive=5)
        client.loop_start()
        self.client = client

    def hear(self, _client, _data, message):
        if "/result/" in message.topic:
            result = json.loads(message.payload)
            self.results.setdefault(result["image"]["sha256"], set()).add(result["job_id"])
            self.replayed += result["replay"]
        elif message.topic.endswith("/info"):
            self.info = json.loads(message.payload)


def mark(image: bytes, number: int) -> bytes:
    """The same picture in another file: bytes in the preamble of DICOM."""
    return f"{number:0128}".encode() + image[128:]


def run(name: str, scansided: str, bundle: Path, images: list[bytes]):
    with tempfile.TemporaryDirectory() as folder:
        work, port = Path(folder), free_port()
        (work / "inbox").mkdir()
        (work / "daemon.toml").write_text(DAEMON.format(port=port, bundle=bundle))
        config = ["--config", str(work / "daemon.toml")]
        dropped = 0

        def drop(count: int):
            nonlocal dropped
            for _ in range(count):
                part = work / "inbox" / f"{dropped}.part"
                part.write_bytes(mark(images[dropped % len(images)], dropped))
                part.rename(part.with_suffix(".dcm"))
                dropped += 1
                time.sleep(0.02)

        broker = Broker(name, port, work)
        subscriber = Subscriber(port)
        assert subscriber.stands.wait(PATIENCE)
        with (work / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen([scansided, "run", *config], stderr=log)
        try:
            drop(BATCH)
            wait_for("the first results", lambda: len(subscriber.results) >= BATCH // 2)
            assert subscriber.info["protocol"] == "3.1.1" and "refusal_reasons" in subscriber.info["missing"]
            # It hangs for 3 s and is killed, amid a stream.
            broker.process.send_signal(signal.SIGSTOP)
            drop(BATCH)
            time.sleep(3)
            broker.kill()
            # Nobody is there.
            drop(BATCH)
            time.sleep(5)
            broker.start()
            assert wait_for("the subscription", subscriber.stands.is_set)
            # The daemon is killed amid a stream.
            drop(BATCH)
            daemon.kill()
            daemon.wait()
            with (work / "daemon.log").open("ab") as log:
                daemon = subprocess.Popen([scansided, "run", *config], stderr=log)

            def books() -> str:
                return subprocess.run([scansided, "ledger", "show", *config], capture_output=True, text=True).stdout

            wait_for("every image published", lambda: f'"published":{dropped}' in books())
            time.sleep(2)
            missing = dropped - len(subscriber.results)
            if missing:
                subprocess.run([scansided, "replay", "--from-seq", "1", *config], check=True, stdout=subprocess.DEVNULL)
            wait_for("every result", lambda: len(subscriber.results) == dropped)
            assert all(len(jobs) == 1 for jobs in subscriber.results.values()), "a copy has another job id"
            assert not missing or subscriber.replayed, "a replay says so"
            doctor = subprocess.run([scansided, "doctor", *config], capture_output=True, text=True).stdout
            assert any("MQTT 3.1.1" in line and line.startswith("note") for line in doctor.splitlines()), doctor
            daemon.terminate()
            assert daemon.wait() == 0
            verify = subprocess.run([scansided, "ledger", "verify", *config], capture_output=True, text=True)
            assert verify.returncode == 0, verify.stdout + verify.stderr
            print(f"{name}: {dropped} images, all received; {missing} were with the broker when it was killed, replayed")
            print(f"  {verify.stdout.strip()}")
        except BaseException:
            print((work / "daemon.log").read_text()[-6000:], (work / "broker.log").read_text()[-2000:], sep="\n")
            raise
        finally:
            subscriber.client.loop_stop()
            daemon.kill()
            broker.kill()


def main():
    scansided, bundle = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    images = [Path(path).read_bytes() for path in sys.argv[3:]]
    for name in ("amqtt", "aedes"):
        run(name, scansided, bundle, images)


main()
