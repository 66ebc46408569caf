#!/usr/bin/env python3
"""Rebuilds the shipped subset of Fashion-MNIST from the whole of it.

The whole comes from Debian's package:

    apt-get install dataset-fashion-mnist
    python3 datasets/fashion-mnist/make.py [FROM [TO]]

FROM defaults to /usr/share/datasets/fashion-mnist, TO to the folder of this script. The rule: of each of the ten
classes the first 1000 training and the first 200 test images, in their original order. Needs Python's own library only.

The hashes of the inputs, of the unpacked outputs and of the packed outputs are checked. The packed ones depend on the
deflate code: with another zlib (zlib-ng, say) only they may differ, and the script then says so and keeps nothing.
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

# file stem -> SHA-256 of the package's .gz
INPUTS = {
    "train-images-idx3-ubyte": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
# file stem -> (SHA-256 unpacked, SHA-256 of the .gz)
OUTPUTS = {
    "train-images-idx3-ubyte": (
        "d33512cfdc636a0d8972818e6659995be209a88891df7fa2109d7895922c8985",
        "fb5d76be9a26fa809a3b13c18f7191e33c2115c6e377baf29656711358a51b1d",
    ),
    "train-labels-idx1-ubyte": (
        "620cb8e3b9348037c5ff9a07b02d773ab165330e072dfd19e0d21c59f8042dcf",
        "4cc57b2814542612de157ac954fec39e17b40ac7cc646602198dc0f4c7c97fc9",
    ),
    "t10k-images-idx3-ubyte": (
        "15a92dd1e9b16ea361928086e77df4dfa890c255c00b5a8c8162c1040ce8eef1",
        "f63b5f3a005caedab708d16a900babd905c8331b1cd2188b91245c032cfe6acd",
    ),
    "t10k-labels-idx1-ubyte": (
        "234596aeb6eb48133ec99a62541f90bc0728c9559a681f1e0638037462458f2c",
        "09f5dc909c8586184bae0fbde44202a1b007bf6f2bd2bc952652fa22dc323f95",
    ),
}
PER_CLASS = {"train": 1000, "t10k": 200}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def read(folder, stem):
    packed = (folder / f"{stem}.gz").read_bytes()
    if sha256(packed) != INPUTS[stem]:
        sys.exit(f"{folder / stem}.gz: SHA-256 is {sha256(packed)}, expected {INPUTS[stem]}")
    return gzip.decompress(packed)


def subset(folder, part):
    images = read(folder, f"{part}-images-idx3-ubyte")
    labels = read(folder, f"{part}-labels-idx1-ubyte")
    size = 28 * 28
    seen = [0] * 10
    keep = []
    for i, label in enumerate(labels[8:]):
        if seen[label] < PER_CLASS[part]:
            seen[label] += 1
            keep.append(i)
    out_images = struct.pack(">IIII", 0x803, len(keep), 28, 28)
    out_images += b"".join(images[16 + i * size : 16 + (i + 1) * size] for i in keep)
    out_labels = struct.pack(">II", 0x801, len(keep)) + bytes(labels[8 + i] for i in keep)
    return {f"{part}-images-idx3-ubyte": out_images, f"{part}-labels-idx1-ubyte": out_labels}


def main():
    source = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).resolve().parent
    packed = {}
    for part in PER_CLASS:
        for stem, data in subset(source, part).items():
            # No name and no time in the header: the same bytes each time.
            packed[stem] = gzip.compress(data, 9, mtime=0)
            want = OUTPUTS.get(stem, ("", ""))
            if sha256(data) != want[0]:
                sys.exit(f"{stem}: SHA-256 is {sha256(data)}, expected {want[0]}")
            if sha256(packed[stem]) != want[1]:
                sys.exit(f"{stem}.gz: SHA-256 is {sha256(packed[stem])}, expected {want[1]}; the content is right, zlib differs")
    for stem, data in packed.items():
        (target / f"{stem}.gz").write_bytes(data)
        print(f"{len(data):9} {stem}.gz")


if __name__ == "__main__":
    main()
