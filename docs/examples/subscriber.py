import json
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.properties import PacketTypes, Properties


def decode(size, counts):
    """Rows of a mask out of COCO's run lengths, which go down the columns and begin with background."""
    runs, run, shift = [], 0, 0
    for letter in counts.encode():
        run, shift = run | (letter - 48 & 31) << shift, shift + 5
        if letter - 48 < 32:
            run -= (run >> shift - 1) << shift  # the sign
            runs.append(run + runs[-2] if len(runs) > 2 else run)
            run, shift = 0, 0
    pixels = [number % 2 for number, run in enumerate(runs) for _ in range(run)]
    return [pixels[row :: size[0]] for row in range(size[0])]


def on_message(client, left, message):
    result = json.loads(message.payload)
    for found in [] if "masks" in result else result["instances"]:
        mask = decode(**found["mask"])
        print(result["job"], found["label"], sum(map(sum, mask)), "of", found["area_px"], "px")
    left[0] -= 1
    if left[0] == 0:
        client.disconnect()


left = [int(sys.argv[1])] if len(sys.argv) > 1 else [-1]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "masks-1", protocol=mqtt.MQTTv5, userdata=left)
client.on_message = on_message
client.on_connect = lambda client, *_: client.subscribe("scanside/v1/+/result/#", qos=1)
session = Properties(PacketTypes.CONNECT)
session.SessionExpiryInterval = 3600
client.connect("127.0.0.1", 1883, clean_start=False, properties=session)
client.loop_forever()
