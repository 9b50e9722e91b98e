# How far the engine's probabilities are from an exact run of the same weights, beside llama.cpp's distance.
#
#   fidelity.py ENGINE_LOGITS ORACLE_DIR WORK_DIR MODEL.gguf ...
#
# The reference is llama.cpp in f32 (weights dequantized to an F32 GGUF, f32 KV, no flash attention).
# The text is the project's own documents and licence: natural English, about 6,000 tokens in pieces of
# up to 2,048, teacher-forced.  Printed per model: mean KL(reference || x) per position, top-1 agreement
# and perplexity beside the reference's for x = the engine and x = llama.cpp on the quantized file.  Fails
# where the engine's KL is over 1.1 times llama.cpp's or its perplexity is over 0.5 % from llama.cpp's.
# Needs numpy and gguf; ENGINE_LOGITS: ninja tests/unit/engine/engine_logits; ORACLE_DIR:
# build_llamacpp_oracle.sh.
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

PIECE_BYTES = int(os.environ.get("FIDELITY_PIECE", "5500"))  # 1500 for the small vocabularies of mkmodel
EXACT_KL = 1e-5  # below it both are exact to rounding


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())


def pieces():
    """Runs of whole paragraphs, each at most PIECE_BYTES long (a token has at least 2.7 bytes here)."""
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    names = ["README.md", "ARCHITECTURE.md", "HACKING.md", "SECURITY.md", "docs/protocols/kvx.md",
             "docs/protocols/index-stream.md", "LICENSE"]
    out = [""]
    for paragraph in "\n\n".join(open(os.path.join(root, n)).read() for n in names).split("\n\n"):
        if len(out[-1]) + len(paragraph) > PIECE_BYTES:
            out.append("")
        out[-1] += paragraph + "\n\n"
    return out


class Distance:
    """From the reference, summed over the pieces."""

    def __init__(self):
        self.kl, self.agree, self.nll, self.nll_ref, self.predicted = [], 0, 0.0, 0.0, 0

    def add(self, ref, got, ids):
        for i in range(len(ids)):
            p, q = log_softmax(ref[i]), log_softmax(got[i])
            self.kl.append(float((np.exp(p) * (p - q)).sum()))
            self.agree += int(p.argmax() == q.argmax())
            if i + 1 < len(ids):
                self.nll_ref -= p[ids[i + 1]]
                self.nll -= q[ids[i + 1]]
                self.predicted += 1

    def perplexity(self):
        return np.exp(self.nll / self.predicted)

    def line(self, model, name):
        n = len(self.kl)
        print(f"{model:16.16s} {name:10s} tokens {n}  KL mean {np.mean(self.kl):.6f} max {np.max(self.kl):.4f}  "
              f"top-1 {100 * self.agree / n:.1f} %  perplexity {self.perplexity():.4f} "
              f"(reference {np.exp(self.nll_ref / self.predicted):.4f})", flush=True)


def measure(tool, oracle, work, model):
    base = os.path.join(work, os.path.basename(model))
    f32, ids_path = base + ".f32.gguf", base + ".ids"
    if not os.path.exists(f32):
        to_f32(model, f32)
    distance = {"engine": Distance(), "llama.cpp": Distance()}
    for text in pieces():
        out = {name: f"{base}.{name}" for name in ("engine", "reference", "llama.cpp")}
        subprocess.run([tool, model, os.environ.get("LLMD_CPU", "best"), ids_path, out["engine"]],
                       input=text.encode(), check=True)
        with open(ids_path) as f:
            ids = [int(x) for x in f.read().split()]
        for name, path in (("reference", f32), ("llama.cpp", model)):
            with open(out[name], "wb") as f, open(ids_path, "rb") as i:
                subprocess.run([os.path.join(oracle, "llamacpp_oracle"), "logits", path,
                                os.path.join(oracle, "libs"), "2"], stdin=i, stdout=f, check=True)
        logits = {name: np.memmap(path, np.float32, "r").reshape(len(ids), -1) for name, path in out.items()}
        for name, d in distance.items():
            d.add(logits["reference"], logits[name], ids)
        for path in out.values():
            os.remove(path)
    return distance["engine"], distance["llama.cpp"]


def main():
    tool, oracle, work = sys.argv[1:4]
    failed = 0
    for model in sys.argv[4:]:
        name = os.path.basename(model)
        ours, theirs = measure(tool, oracle, work, model)
        ours.line(name, "engine")
        theirs.line(name, "llama.cpp")
        kl, ppl = np.mean(ours.kl) / np.mean(theirs.kl), ours.perplexity() / theirs.perplexity()
        bad = (kl > 1.1 and np.mean(ours.kl) > EXACT_KL) or abs(ppl - 1) > 0.005
        print(f"{name:16.16s} KL x{kl:.2f} of llama.cpp's, perplexity {100 * (ppl - 1):+.2f} %: "
              f"{'FAILED' if bad else 'ok'}", flush=True)
        failed |= int(bad)
    sys.exit(failed)


main()
