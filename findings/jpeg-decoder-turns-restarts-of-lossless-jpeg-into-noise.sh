#!/usr/bin/env bash
# The Rust crate jpeg-decoder reads JPEG Lossless (process 14, as DICOM has it) without restart markers exactly, and with them,
# which mammography systems write, as other pixels: it answers Ok.
#
# Seen with jpeg-decoder 0.3.2: of 256 pixels none differs without a restart interval; with one after each row of 16 pixels more
# than 200 do, and no error comes. (DCMTK 3.6.7 and pylibjpeg decode streams with restarts exactly.)
# What it means here: JPEG in DICOM is decoded by code of ours, and every feature of a stream is held against a second decoder.
# Needs cargo and Python 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "restarts"
version = "0.0.0"
edition = "2021"
[dependencies]
jpeg-decoder = { version = "=0.3.2", default-features = false }
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
fn main() {
    let expected = std::fs::read("pixels").unwrap();
    for name in ["plain.jpg", "restarts.jpg"] {
        let file = std::fs::File::open(name).unwrap();
        let pixels = jpeg_decoder::Decoder::new(file).decode().expect("Ok");
        let n = pixels.iter().zip(&expected).filter(|(a, b)| a != b).count();
        println!("{name}: {} pixels, {n} differ", pixels.len());
    }
}
RUST
cd "$folder"
python3 - <<'PY'
SIDE = 16
pixels = [[(x * 7 + y * 13 + (x * y) % 5) % 256 for x in range(SIDE)] for y in range(SIDE)]
open("pixels", "wb").write(bytes(sum(pixels, [])))


def segment(marker, body):
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def coded(rows, first_of_all):
    """Differences to the pixel on the left, nine categories of four bits each."""
    bits = ""
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            above = 128 if first_of_all and y == 0 else rows[y - 1][0]
            difference = value - (row[x - 1] if x else above)
            size = abs(difference).bit_length()
            extra = difference if difference >= 0 else difference + (1 << size) - 1
            bits += f"{size:04b}" + (f"{extra:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return data.replace(b"\xff", b"\xff\x00")


def jpeg(restarts):
    head = b"\xff\xd8" + segment(0xC3, bytes([8, 0, SIDE, 0, SIDE, 1, 1, 0x11, 0]))
    head += segment(0xC4, bytes([0, 0, 0, 0, 9] + [0] * 12 + list(range(9))))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    if not restarts:
        return head + scan + coded(pixels, True) + b"\xff\xd9"
    body = b""
    for y, row in enumerate(pixels):
        body += coded([row], True) + (bytes([0xFF, 0xD0 + y % 8]) if y < SIDE - 1 else b"")
    return head + segment(0xDD, SIDE.to_bytes(2, "big")) + scan + body + b"\xff\xd9"


open("plain.jpg", "wb").write(jpeg(False))
open("restarts.jpg", "wb").write(jpeg(True))
PY
cargo run --quiet > seen
cat seen
grep -qx 'plain.jpg: 256 pixels, 0 differ' seen
grep -qxE 'restarts.jpg: 256 pixels, 2[0-9]{2} differ' seen
