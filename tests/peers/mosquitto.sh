#!/usr/bin/env bash
# Files dropped into the inbox arrive at mosquitto_sub with the masks that `scansided segment` prints:
# mosquitto.sh SCANSIDED BUNDLE IMAGE...
# With RECEIVED=FILE what mosquitto_sub printed is kept there.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
scansided=$(realpath "$1")
bundle=$(realpath "$2")
shift 2
port=$((20000 + RANDOM % 10000))
work=$(mktemp -d)
children=()
finish() {
    status=$?
    kill "${children[@]}" 2>/dev/null || true
    [ "$status" -eq 0 ] || tail -n 20 "$work"/*.log
    rm -rf "$work"
}
trap finish EXIT

sed "s/^listener 1883/listener $port/" "$here/config/mosquitto-dev.conf" >"$work/mosquitto.conf"
PATH=$PATH:/usr/sbin mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
children+=($!)
mkdir "$work/inbox"
cat >"$work/daemon.toml" <<TOML
node = "box-1"
[model]
bundle = "$bundle"
[state]
directory = "state"
min_free_bytes = 0
[[folder]]
name = "inbox"
directory = "inbox"
[mqtt]
host = "127.0.0.1"
port = $port
TOML
"$scansided" check --config "$work/daemon.toml"
for _ in $(seq 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done
# The session first (-E: until the subscription is acknowledged), so that nothing comes before it.
subscribe=(mosquitto_sub -p "$port" -V 5 -i masks -c -x 3600 -q 1 -t 'scanside/v1/box-1/result/#')
"${subscribe[@]}" -E
"${subscribe[@]}" -C "$#" -W 300 >"$work/received.jsonl" &
subscriber=$!
"$scansided" run --config "$work/daemon.toml" 2>"$work/daemon.log" &
daemon=$!
children+=("$subscriber" "$daemon")
number=0
for image in "$@"; do
    number=$((number + 1))
    cp "$image" "$work/inbox/$number.part"
    mv "$work/inbox/$number.part" "$work/inbox/$number.dcm"
done
wait "$subscriber"
# The last acknowledgement may still be on its way; an input leaves with it.
for _ in $(seq 300); do
    [ -z "$(ls "$work/state/accepted/inbox")" ] && break
    sleep 0.1
done
kill -TERM "$daemon"
wait "$daemon"
"$scansided" ledger verify --config "$work/daemon.toml"
"$scansided" segment --bundle "$bundle" "$@" >"$work/printed.jsonl"
"${SCANSIDE_PYTHON:-python3}" "$here/tests/arm/compare.py" "$work/printed.jsonl" "$work/received.jsonl"
if [ -n "${RECEIVED:-}" ]; then
    cp "$work/received.jsonl" "$RECEIVED"
fi
