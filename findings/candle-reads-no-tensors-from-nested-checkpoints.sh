#!/usr/bin/env bash
# candle reads a checkpoint of PyTorch whose state dict lies one level down, as training scripts save it, as one without
# tensors: Ok, an empty list. One tensor that is a strided view makes it refuse the whole file.
#
# Seen with candle-core 0.11.1, `pickle::read_all`, and files as `torch.save` writes them, which torch 2.15.0 loads with all
# their values:
#     {"w": .., "b": ..}                  2 tensors
#     {"model": {..}, "epoch": 1}         0 tensors; 2 with `read_all_with_key(.., Some("model"))`
#     {"state": {"model": {..}}}          0 tensors; 0 with the key "state"
#     [{..}]                              0 tensors
#     {"w": a view of columns, "b": ..}   an error: cannot retrieve non-contiguous tensors
# What it means here: the trainer reads these files with code of its own, finds the state dict wherever it is nested, copies
# strided views, and refuses a file without tensors.
# Needs cargo and Python 3; compiles candle-core, which takes minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "nested"
version = "0.0.0"
edition = "2024"
[dependencies]
candle-core = { version = "=0.11.1", default-features = false }
[profile.dev]
debug = false
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use candle_core::pickle::read_all_with_key;

fn main() {
    for (file, key) in [
        ("plain", None),
        ("nested", None),
        ("nested", Some("model")),
        ("two_levels", None),
        ("two_levels", Some("state")),
        ("list", None),
        ("strided", None),
    ] {
        match read_all_with_key(format!("{file}.pth"), key) {
            Ok(tensors) => println!("{file} {}: {} tensors", key.unwrap_or("-"), tensors.len()),
            Err(error) => {
                let words = error.to_string();
                println!("{file} {}: {}", key.unwrap_or("-"), words.lines().next().unwrap());
            }
        }
    }
}
RUST
cd "$folder"
python3 - <<'PY'
"""Writes zip files with a pickle and storages, as `torch.save` does, without PyTorch."""

import collections
import pickle
import struct
import sys
import types
import zipfile

# The names that the pickle refers to.
torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})


def _rebuild_tensor_v2(*arguments):
    raise NotImplementedError


_rebuild_tensor_v2.__module__ = "torch._utils"
utils._rebuild_tensor_v2 = _rebuild_tensor_v2
torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})


class Storage:
    def __init__(self, key, n):
        self.key, self.n = key, n


class Tensor:
    def __init__(self, storage, offset, size, stride):
        self.arguments = (storage, offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return "storage", torch.FloatStorage, value.key, "cpu", value.n
        return None


class Buffer(bytearray):
    def write(self, data):
        self.extend(data)


def save(name, value, *storages):
    data = Buffer()
    Pickler(data, protocol=2).dump(value)
    with zipfile.ZipFile(f"{name}.pth", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{name}/data.pkl", bytes(data))
        archive.writestr(f"{name}/byteorder", "little")
        for storage in storages:
            numbers = struct.pack(f"<{storage.n}f", *range(storage.n))
            archive.writestr(f"{name}/data/{storage.key}", numbers)
        archive.writestr(f"{name}/version", "3\n")


w, b, base = Storage("0", 6), Storage("1", 2), Storage("0", 24)
state_dict = {"w": Tensor(w, 0, (2, 3), (3, 1)), "b": Tensor(b, 0, (2,), (1,))}
# Columns 2 and 3 of a 4 x 6 matrix.
strided = {"w": Tensor(base, 2, (4, 2), (6, 1)), "b": Tensor(b, 0, (2,), (1,))}
save("plain", state_dict, w, b)
save("nested", {"model": state_dict, "epoch": 1}, w, b)
save("two_levels", {"state": {"model": state_dict}}, w, b)
save("list", [state_dict], w, b)
save("strided", strided, base, b)
PY
CARGO_TARGET_DIR=target timeout 3000 cargo run --quiet > seen
cat seen
expected="plain -: 2 tensors
nested -: 0 tensors
nested model: 2 tensors
two_levels -: 0 tensors
two_levels state: 0 tensors
list -: 0 tensors"
[ "$(head -n 6 seen)" = "$expected" ]
grep -q '^strided -: cannot retrieve non-contiguous tensors' seen
[ "$(wc -l < seen)" = 7 ]
