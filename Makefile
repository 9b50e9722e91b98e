# A few lines over Meson.  `make help` lists the targets.
# SPDX-License-Identifier: Apache-2.0
BUILD    ?= build
UP_FLAGS ?=
FUZZ_S   ?= 60
LLMD     := $(BUILD)/src/cmd/llmd

.PHONY: all up test unit e2e bench lint sanitize fuzz format install help deps deps-lint deps-fuzz clean chaos
.PHONY: images images-test kube-test deploy-test charm-test docs-test peers-test

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja: | deps
	@meson setup $(BUILD) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }; rm -f $(BUILD).log

deps:
	@tools/install_deps build run

deps-lint:
	@tools/install_deps lint

deps-fuzz:
	@tools/install_deps lint fuzz

up: $(BUILD)/build.ninja
	@ninja -C $(BUILD) src/cmd/llmd
	@$(LLMD) up $(UP_FLAGS)

test: all
	@tests/run unit e2e

unit: all
	@tests/run unit

e2e: all
	@tests/run e2e

chaos: all
	@tests/run chaos

bench: all
	@tests/run bench

# A release build of its own: what is shipped does not depend on what build/ was set up for.
build-release/build.ninja: | deps
	@meson setup --buildtype=release build-release >/dev/null

images: build-release/build.ninja
	@tools/install_deps images
	@ninja -C build-release src/cmd/llmd >/dev/null
	@deploy/images/build.py --llmd build-release/src/cmd/llmd

images-test: images
	@LLMD=build-release/src/cmd/llmd python3 tests/deploy/test_images.py

kube-test: build-release/build.ninja
	@tools/install_deps images kube
	@ninja -C build-release src/cmd/llmd >/dev/null
	@LLMD=build-release/src/cmd/llmd tests/kube/run $(KUBE_ONLY)

peers-test: all
	@tests/run peers

charm-test: all
	@tests/charms/run

deploy-test: all
	@tests/run deploy

docs-test:
	@python3 tests/deploy/doc_commands.py

lint: all deps-lint
	@tools/lint

sanitize: deps deps-fuzz
	@tests/sanitize

fuzz: deps deps-fuzz
	@tests/fuzz/run $(FUZZ_S)

format: deps-lint
	@git ls-files 'src/*.[ch]' 'tests/*.[ch]' 'tools/*.[ch]' | xargs clang-format -i

install: all
	@meson install -C $(BUILD)

clean:
	@rm -rf $(BUILD)

help:
	@echo "make           set up what is missing, build into $(BUILD)"
	@echo "make up        build, fetch the default model, start everything, ask a first question (UP_FLAGS=...)"
	@echo "make test      unit tests, then real processes (make unit, make e2e)"
	@echo "make chaos     faults at seeded random moments under load (CHAOS_N, CHAOS_SEED)"
	@echo "make bench     engine beside the machine's limits (and llama.cpp with LLAMA_CPP_DIR), scheduler beside other"
	@echo "               routers, load scenarios (BENCH_QUICK=1; BENCH_ONLY=engine|scheduler|sched_load)"
	@echo "make deploy-test  charts, overlays, dashboards and alert rules, without a cluster"
	@echo "make docs-test the commands of README.md and docs/ops, word by word, in a fresh clone"
	@echo "make lint      layers, banned calls, headers alone, clang warnings, layout"
	@echo "make sanitize  unit and e2e under ASan+UBSan, then TSan"
	@echo "make fuzz      every fuzz target for FUZZ_S seconds ($(FUZZ_S))"
	@echo "make format    clang-format in place"
	@echo "make images    container images in build-images/, without Docker; make images-test checks them"
	@echo "make kube-test a real Kubernetes in namespaces of its own, the chart, load and faults (KUBE_ONLY='install storm')"
	@echo "make peers-test vLLM, llama.cpp, Envoy and openai-python around one scheduler (PEERS_ONLY='kills', PEERS_WITHOUT='vllm')"
	@echo "make charm-test the Juju charms: every event in every state, and their layers under a real Pebble"
	@echo "make install   to the Meson prefix (DESTDIR is honoured)"
