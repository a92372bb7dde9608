#!/usr/bin/env python3
"""Writes mace_torch.txt: 3j tensors and U matrices as mace-torch 0.3.16 with e3nn 0.4.4 stores them.

Usage: extract.py GOLDEN_FOLDER > mace_torch.txt
GOLDEN_FOLDER holds the f64 models mace_0.safetensors and mace_1.safetensors.
"""

import json
import struct
import sys
from pathlib import Path

PRODUCT = "model.products.0.symmetric_contractions.contractions"
W3J = "model.interactions.1.conv_tp._compiled_main_left_right._w3j"
# (file, tensor, line that describes it: kind and degrees, or kind, input irreps, output and correlation)
TENSORS = [
    ("mace_1", f"{W3J}_1_1_2", "w3j 1 1 2"),
    ("mace_1", f"{W3J}_1_2_1", "w3j 1 2 1"),
    ("mace_1", f"{W3J}_2_2_2", "w3j 2 2 2"),
    ("mace_1", f"{W3J}_2_3_3", "w3j 2 3 3"),
    ("mace_0", f"{PRODUCT}.0.U_matrix_3", "basis 0e+1o+2e 0e 3"),
    ("mace_0", f"{PRODUCT}.1.U_matrix_2", "basis 0e+1o+2e 1o 2"),
    ("mace_1", f"{PRODUCT}.2.U_matrix_2", "basis 0e+1o+2e+3o 2e 2"),
]


def read(path, name):
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    entry = json.loads(raw[8 : 8 + length])[name]
    assert entry["dtype"] == "F64"
    start, end = entry["data_offsets"]
    return struct.unpack_from(f"<{(end - start) // 8}d", raw, 8 + length + start)


print("# Made by extract.py: kind, description, number of values; then `flat index, value` of all not zero.")
for file, name, description in TENSORS:
    values = read(Path(sys.argv[1]) / f"{file}.safetensors", name)
    print(f"{description} {len(values)}")
    for index, value in enumerate(values):
        if abs(value) > 1e-14:
            print(f"{index} {value!r}")
