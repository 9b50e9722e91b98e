#!/bin/sh
# Builds llamacpp_oracle against prebuilt llama.cpp libraries.  Usage:
#   LLAMA_SRC=.../vendor/llama.cpp LLAMA_LIBS=.../bins/linux-x64 tests/golden/build_llamacpp_oracle.sh OUT_DIR [LEVEL]
# LLAMA_SRC: sources of the version that fits (PyPI llama-cpp-python 0.3.36), for headers only.
# LLAMA_LIBS: the libraries (npm @node-llama-cpp/linux-x64 3.22.1, package/bins/linux-x64).
# LEVEL (default zen4): the one libggml-cpu-LEVEL.so that OUT_DIR/libs gets, which forces the CPU level.
# SPDX-License-Identifier: Apache-2.0
set -eu
out=${1:?OUT_DIR}
level=${2:-zen4}
: "${LLAMA_SRC:?}" "${LLAMA_LIBS:?}"
here=$(dirname "$0")
rm -rf "$out/libs"
mkdir -p "$out/libs"
cp "$LLAMA_LIBS"/libllama.v0.5.0.so "$LLAMA_LIBS"/libggml.v0.5.0.so "$LLAMA_LIBS"/libggml-base.so \
   "$LLAMA_LIBS/libggml-cpu-$level.so" "$out/libs/"
cc -std=gnu17 -O2 -Wall -Wextra -I"$LLAMA_SRC/include" -I"$LLAMA_SRC/ggml/include" \
   -o "$out/llamacpp_oracle" "$here/llamacpp_oracle.c" \
   "$out/libs/libllama.v0.5.0.so" "$out/libs/libggml.v0.5.0.so" "$out/libs/libggml-base.so" \
   -Wl,-rpath,'$ORIGIN/libs'
echo "$out/llamacpp_oracle"
