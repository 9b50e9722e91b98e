# How far the engine's probabilities are from an exact run of the same weights, beside llama.cpp's distance.
#
#   fidelity.py ENGINE_LOGITS ORACLE_DIR WORK_DIR MODEL.gguf ...
#
# The reference is llama.cpp in f32 (weights dequantized to an F32 GGUF, f32 KV, no flash attention).
# Printed per model: mean KL(reference || x) per position, top-1 agreement and perplexity ratio for
# x = the engine and x = llama.cpp on the quantized file.  Needs numpy and gguf; ENGINE_LOGITS is built by
# meson, ORACLE_DIR by build_llamacpp_oracle.sh.
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

import gguf
import numpy as np


def to_f32(src, dst):
    reader = gguf.GGUFReader(src)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(dst, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub)
    writer.add_file_type(0)
    for t in reader.tensors:
        data = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        writer.add_tensor(t.name, data.reshape(tuple(int(n) for n in reversed(t.shape))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())


def compare(ref, got, ids):
    kl, agree, nll_ref, nll_got = [], 0, 0.0, 0.0
    for i in range(len(ids)):
        p, q = log_softmax(ref[i]), log_softmax(got[i])
        kl.append(float((np.exp(p) * (p - q)).sum()))
        agree += int(p.argmax() == q.argmax())
        if i + 1 < len(ids):
            nll_ref -= p[ids[i + 1]]
            nll_got -= q[ids[i + 1]]
    n = len(ids)
    return np.mean(kl), np.max(kl), agree / n, np.exp((nll_got - nll_ref) / (n - 1))


def main():
    tool, oracle, work = sys.argv[1:4]
    here = os.path.dirname(os.path.abspath(__file__))
    failed = 0
    for model in sys.argv[4:]:
        base = os.path.join(work, os.path.basename(model))
        f32, ids_path, ours = base + ".f32.gguf", base + ".ids", base + ".engine"
        if not os.path.exists(f32):
            to_f32(model, f32)
        with open(os.path.join(here, "fidelity.txt"), "rb") as text:
            subprocess.run([tool, model, os.environ.get("LLMD_CPU", "best"), ids_path, ours], stdin=text, check=True)
        ids = [int(x) for x in open(ids_path).read().split()]
        logits = {"engine": np.memmap(ours, np.float32, "r").reshape(len(ids), -1)}
        for name, path in (("reference", f32), ("llama.cpp", model)):
            out = base + "." + name
            with open(out, "wb") as f, open(ids_path, "rb") as i:
                subprocess.run([os.path.join(oracle, "llamacpp_oracle"), "logits", path,
                                os.path.join(oracle, "libs"), "2"], stdin=i, stdout=f, check=True)
            logits[name] = np.memmap(out, np.float32, "r").reshape(len(ids), -1)
        result = {}
        for name in ("engine", "llama.cpp"):
            result[name] = compare(logits["reference"], logits[name], ids)
            print("%-16s %-10s tokens %d  KL mean %.5f max %.4f  top-1 %.1f %%  perplexity x%.4f" %
                  ((os.path.basename(model), name, len(ids), result[name][0], result[name][1],
                    100 * result[name][2], result[name][3])), flush=True)
        limit = max(1.1 * result["llama.cpp"][0], 5e-3)
        if result["engine"][0] > limit:
            print("FAILED: KL %.5f > %.5f" % (result["engine"][0], limit))
            failed = 1
        for suffix in (".engine", ".reference", ".llama.cpp"):
            os.remove(base + suffix)
    sys.exit(failed)


main()
