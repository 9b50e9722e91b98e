#!/bin/sh
# Makes the tokenizer goldens anew with llama.cpp's libraries.  Usage:
#   LLAMA_SRC=.../vendor/llama.cpp LLAMA_LIBS=.../bins/linux-x64 MODELS=DIR tests/golden/tokenizer/make.sh
# LLAMA_SRC: PyPI source package llama-cpp-python 0.3.36, for headers and models/ggml-vocab-*.gguf.
# LLAMA_LIBS: npm @node-llama-cpp/linux-x64 3.22.1, package/bins/linux-x64.
# MODELS: a folder with the models of the catalogue under their file names or as smollm2.gguf,
#   qwen.gguf and gemma3.gguf; what is absent is said and left as it was.
# SPDX-License-Identifier: Apache-2.0
set -eu
: "${LLAMA_SRC:?}" "${LLAMA_LIBS:?}" "${MODELS:?}"
here=$(cd "$(dirname "$0")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cc -std=gnu17 -O2 -Wall -Wextra -I"$LLAMA_SRC/include" -I"$LLAMA_SRC/ggml/include" \
   -o "$tmp/oracle" "$here/oracle.c" "$LLAMA_LIBS/libllama.v0.5.0.so" \
   "$LLAMA_LIBS/libggml.v0.5.0.so" "$LLAMA_LIBS/libggml-base.so" -Wl,-rpath,"$LLAMA_LIBS"
ulimit -s unlimited || true # std::regex recurses once a character
one() { # golden's name, candidates for the file
    name=$1
    shift
    for f; do
        [ -e "$f" ] || continue
        "$tmp/oracle" "$f" "$tmp/$name.hash"
        mv "$tmp/$name.hash" "$here/$name.hash"
        echo "$name: $f"
        return
    done
    echo "$name: absent, left as it was"
}
one smollm2 "$MODELS/smollm2-135m-instruct-q4_1.gguf" "$MODELS/smollm2.gguf"
one qwen2.5 "$MODELS/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf" "$MODELS/qwen.gguf"
one gemma3 "$MODELS/gemma-3-270m-q4_k_m.gguf" "$MODELS/gemma3.gguf"
for v in gpt-2 llama-bpe qwen2 llama-spm phi-3 qwen35 falcon starcoder gpt-neox; do
    one "$v" "$LLAMA_SRC/models/ggml-vocab-$v.gguf"
done
