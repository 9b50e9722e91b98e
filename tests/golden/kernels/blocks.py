#!/usr/bin/env python3
"""Writes blocks.bin: random GGUF blocks of each type with their values by the gguf package.

Needs gguf 0.19.0 and numpy.  Records: u32 type, rows, cols, source bytes; the blocks; f32 values.
Scales take f16's whole finite range, subnormals included."""
# SPDX-License-Identifier: Apache-2.0
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# type: (elements, bytes, offsets of f16 fields)
TYPES = {
    T.F32: (1, 4, []), T.F16: (1, 2, [0]), T.BF16: (1, 2, []),
    T.Q4_0: (32, 18, [0]), T.Q4_1: (32, 20, [0, 2]), T.Q5_0: (32, 22, [0]), T.Q5_1: (32, 24, [0, 2]),
    T.Q8_0: (32, 34, [0]), T.Q4_K: (256, 144, [0, 2]), T.Q5_K: (256, 176, [0, 2]), T.Q6_K: (256, 210, [208]),
}
ROWS, COLS = 18, 256

rng = np.random.default_rng(20240229)
out = open(sys.argv[1] if len(sys.argv) > 1 else "blocks.bin", "wb")
for t, (elems, size, halves) in TYPES.items():
    n = ROWS * COLS // elems
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in halves:
        h = rng.integers(0, 65536, n, dtype=np.uint16)
        h[(h & 0x7C00) == 0x7C00] &= 0x83FF  # no infinity, no NaN: becomes subnormal
        raw[:, at:at + 2] = h.view(np.uint8).reshape(n, 2)
    if t == T.F32:
        raw = rng.standard_normal(n).astype(np.float32).view(np.uint8).reshape(n, 4)
    if t == T.BF16:
        raw[:, 1] &= 0xBF  # exponents far from infinity
    raw = raw.reshape(ROWS, -1)
    if t in (T.F32, T.F16):
        y = raw.view(np.float32 if t == T.F32 else np.float16).astype(np.float32)
    else:
        y = dequantize(raw, t)
    assert y.shape == (ROWS, COLS) and y.dtype == np.float32
    out.write(struct.pack("<IIII", int(t), ROWS, COLS, raw.size) + raw.tobytes() + y.tobytes())
