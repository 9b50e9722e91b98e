#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes dequant.txt: blocks of random bytes and the values that the `gguf` package gives them.

One line a block: type, bytes in hex, f32 values as hex of their bits.  Scales are kept finite
(some are subnormal).  Needs PyPI gguf and numpy; run it by hand: python3 dequant.py > dequant.txt"""
import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
# type: offsets of the half-precision numbers in its block
HALVES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q4_K: [0, 2],
          Q.Q5_K: [0, 2], Q.Q6_K: [208], Q.F16: [0], Q.BF16: [], Q.F32: []}
rng = np.random.default_rng(20240229)

for kind, halves in HALVES.items():
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    for n in range(2 if elems == 256 else 4 if elems == 32 else 12):
        block = rng.integers(0, 256, size, dtype=np.uint8)
        for at in halves:
            d = np.float16(rng.normal() * 10.0 ** rng.integers(-7, 1))
            block[at:at + 2] = np.frombuffer(d.tobytes(), dtype=np.uint8)
        if kind in (Q.BF16, Q.F32):
            block[-1] &= 0xbf  # not NaN
        if kind == Q.F32:
            values = block.view(np.float32)
        elif kind == Q.F16:
            values = block.view(np.float16).astype(np.float32)
        else:
            values = gguf.quants.dequantize(block.reshape(1, -1), kind).reshape(-1)
        assert len(values) == elems and np.isfinite(values).all()
        print(kind.name, block.tobytes().hex(), values.astype("<f4").tobytes().hex())
