#!/usr/bin/env bash
# What scansided is made of, as it ships: bash packaging/sbom.sh
#
# CycloneDX JSON for x86-64 and 64-bit ARM in target/sbom/: every crate that is linked or runs in the build, with its licence and
# the digest of its source. Needs `cargo install cargo-cyclonedx --locked` and Python.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/sbom
for target in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
    # It writes beside the manifest of every member.
    cargo cyclonedx --quiet --manifest-path daemon/Cargo.toml --format json --spec-version 1.5 \
        --no-default-features --target "$target" --override-filename "sbom-$target"
    out=target/sbom/scansided-$target.cdx.json
    mv "daemon/sbom-$target.json" "$out"
    find . -path ./target -prune -o -name "sbom-$target.json" -exec rm {} +
    # It takes features that only other members of the workspace ask for; what cargo builds is a part of that.
    cargo tree --locked -p daemon --no-default-features -e normal,build --target "$target" --prefix none --format '{p}' |
        python3 -c '
import json, sys
built = {tuple(line.split()[:2]) for line in sys.stdin}
path = sys.argv[1]
bom = json.load(open(path))
kept = [part for part in bom["components"] if (part["name"], "v" + part["version"]) in built]
references = {part["bom-ref"] for part in kept} | {bom["metadata"]["component"]["bom-ref"]}
missing = built - {(part["name"], "v" + part["version"]) for part in kept} - {("daemon", "v0.0.0")}
assert not missing, missing
bom["components"] = kept
bom["dependencies"] = [
    {**entry, "dependsOn": [on for on in entry.get("dependsOn", []) if on in references]}
    for entry in bom["dependencies"] if entry["ref"] in references
]
json.dump(bom, open(path, "w"), indent=2)
print(f"{path}: {len(kept)} crates")
' "$out"
done
