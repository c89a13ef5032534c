# The few commands there are. Every one sets up what it needs; a second time that takes no time.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.SILENT:

PYTHON ?= python3.11
JOB ?= datasets/sample.toml
VENV := .venv
BIN := $(VENV)/bin
QUANTIZE := .venv-quantize
STATE := .gristmill
# An NVIDIA GPU gets vLLM's CUDA build; everything else is the same.
BUILD := $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
LOCK := requirements/$(BUILD).txt
ENVIRONMENT := $(VENV)/.ready-$(BUILD)
MODELS := models/smollm2-135m-instruct-w8a8/gristmill.json models/all-minilm-l6-v2/gristmill.json
SAMPLE := datasets/sample/prompts.jsonl
LLAMA := $(STATE)/llama-server

# The repository root stays off sys.path, so that datasets/ never answers to `import datasets`.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup batch test test-real test-engines test-gpu test-faults test-quantize suffix quantize-env check bench bench-planner bench-reuse docs lock clean

help:
	echo "make setup   the environment, the models and the sample dataset ($(BUILD) build)"
	echo "make batch   answer the sample dataset; JOB=path/to/job.toml runs any job"
	echo "make test    every law and part, and the command as a user has it (some fifteen minutes on two cores)"
	echo "make test-real     the sample job killed and resumed, Prefect, Ray, vLLM's and llama.cpp's servers (some ten minutes)"
	echo "make test-faults   crashes, power failures and corruption, swept (some 15 minutes on two cores)"
	echo "make test-engines  vLLM in every shape that runs on a CPU (some twelve minutes on two cores)"
	echo "make test-gpu      and what needs a GPU"
	echo "make suffix  build suffix decoding, which a job can ask for (two minutes; needs a C++ compiler)"
	echo "make quantize-env    llmcompressor in .venv-quantize, which models quantize --calibrate calls"
	echo "make test-quantize   GPTQ, AWQ and SmoothQuant on tiny models (some minutes on two cores)"
	echo "make docs    the job file's keys, described from the code that checks them"
	echo "make check   format, lint, types"
	echo "make bench   this machine against its roofline, barriers, other orders, run-batch and rows that kill (an hour or two)"
	echo "make bench-planner   the planner against rows that others measured (ROWS=path; some minutes)"
	echo "make bench-reuse    reuse against published answers: what it serves, what of it is wrong; the join of a million rows (some minutes)"
	echo "make clean   remove the environment and what was built; models/ and runs/ stay"

setup: $(ENVIRONMENT) $(MODELS) $(SAMPLE)

batch: setup
	$(BIN)/gristmill run $(JOB) --prefect

# Three at once, since each waits half of the time, for a disk or a child.
test: setup $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not real and not faults and not engines and not quantize and not gpu"

# One after the other: each has the whole machine.
test-real: setup $(VENV)/.ready-dev $(LLAMA)/.ready
	$(BIN)/python -m pytest -q -m "real and not faults and not engines and not quantize and not gpu"

test-engines: setup $(VENV)/.ready-dev
	command -v c++ >/dev/null && $(MAKE) --no-print-directory suffix || true
	$(BIN)/python -m pytest -q -m engines tests/engine_room tests/flows

test-gpu: setup $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q -m gpu tests/engine_room

suffix: $(VENV)/.ready-suffix

$(VENV)/.ready-suffix: requirements/suffix.txt $(ENVIRONMENT)
	command -v c++ >/dev/null || { echo "a C++ compiler is not installed (apt install g++)" >&2; exit 1; }
	echo "set-up      suffix decoding, from source"
	$(call quietly,sed -n '/^nanobind/p' $< > $(STATE)/nanobind.txt && $(BIN)/pip install --quiet --no-deps --require-hashes -r $(STATE)/nanobind.txt)
	$(call quietly,sed -n '/^arctic/p' $< > $(STATE)/arctic.txt && PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --no-deps --no-build-isolation --require-hashes -r $(STATE)/arctic.txt)
	touch $@

# Needs gcc for the shim that makes system calls fail; KILLS=3000 is the long form of the random kills.
KILLS ?= 200
test-faults: setup $(VENV)/.ready-dev
	GRISTMILL_KILLS=$(KILLS) $(BIN)/python -m pytest -q -rA -m faults --show-capture=no tests/faults

quantize-env: $(QUANTIZE)/.ready

test-quantize: setup $(VENV)/.ready-dev quantize-env
	$(BIN)/python -m pytest -q -m quantize tests/serving/models

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# What docs say of the job file's keys, from the code that checks them.
docs: setup
	$(BIN)/python -m serving.key_table docs/job-file.md

bench: setup
	$(BIN)/python bench/order.py
	$(BIN)/python bench/lanes.py
	$(BIN)/python bench/roofline.py
	$(BIN)/python bench/feed.py --shape tiny --parts 20
	$(BIN)/python bench/feed.py
	$(BIN)/python bench/order_engine.py
	$(BIN)/python bench/run_batch.py
	$(BIN)/python bench/poison.py
	$(BIN)/python bench/scale.py 100000

# Needs the rows that others measured, which are not part of this repository. Folds run side by side, a thread each.
ROWS ?= ../shared/data/measured_throughput.csv
bench-planner: setup $(VENV)/.ready-dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python bench/planner.py $(ROWS) --detail
	$(BIN)/python bench/kv_blocks.py

bench-reuse: setup
	$(BIN)/python bench/reuse.py
	$(BIN)/python bench/join.py 100000
	$(BIN)/python bench/join.py 1000000

# A step that fails says where its whole output is, and shows the end of it.
define quietly
	mkdir -p $(STATE)
	{ $(1) ; } >> $(STATE)/setup.log 2>&1 || { tail -n 5 $(STATE)/setup.log >&2; echo "set-up failed; whole log: $(STATE)/setup.log" >&2; exit 1; }
endef

$(VENV)/pyvenv.cfg:
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; make PYTHON=/path/to/python3.11" >&2; exit 1; }
	echo "set-up 1/5  environment in $(VENV)/"
	$(call quietly,$(PYTHON) -m venv $(VENV))

# Installed without resolving: what the lock leaves out (torchvision, torchaudio, triton) breaks or bloats the rest.
# Torch from the default index is a CUDA build; with no GPU it still wants its libraries, which the last line gets.
$(VENV)/.ready-cpu: requirements/torch.txt requirements/cpu.txt $(VENV)/pyvenv.cfg
	echo "set-up 2/5  PyTorch (0.2 GB as CPU build, see docs/install.md)"
	$(call quietly,$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/torch.txt)
	echo "set-up 3/5  vLLM for CPU, Prefect, DuckDB, FAISS (0.6 GB to download, 3 GB on disk; some two minutes)"
	$(call quietly,$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/cpu.txt)
	$(call quietly,$(BIN)/pip show torch | grep -q '^Version:.*cpu' || $(BIN)/pip install --quiet torch==2.13.0)
	$(call quietly,$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .)
	touch $@

$(VENV)/.ready-cuda: requirements/cuda.txt $(VENV)/pyvenv.cfg
	echo "set-up 3/5  vLLM for CUDA, PyTorch, Prefect, DuckDB, FAISS (some 5 GB to download)"
	$(call quietly,$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/cuda.txt)
	$(call quietly,$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .)
	touch $@

$(VENV)/.ready-dev: requirements/dev.txt $(ENVIRONMENT)
	echo "set-up      test tools"
	$(call quietly,$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/dev.txt)
	touch $@

# Beside the environment: only tests need it.
$(LLAMA)/.ready: requirements/llama-server.txt $(ENVIRONMENT)
	echo "set-up      llama.cpp's server and a GGUF model, for the tests (0.13 GB to download)"
	rm -rf $(LLAMA)
	$(call quietly,$(BIN)/pip install --quiet --no-deps --require-hashes --target $(LLAMA) -r requirements/llama-server.txt)
	touch $@

# No release of llmcompressor goes with the compressed-tensors that vLLM pins, so it lives apart.
$(QUANTIZE)/.ready: requirements/torch.txt requirements/quantize.txt
	command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; make PYTHON=/path/to/python3.11" >&2; exit 1; }
	echo "set-up      llmcompressor in $(QUANTIZE)/ (0.3 GB to download beside PyTorch, 1.5 GB on disk)"
	$(call quietly,$(PYTHON) -m venv $(QUANTIZE))
	$(call quietly,$(QUANTIZE)/bin/pip install --quiet --no-deps --require-hashes -r requirements/torch.txt)
	$(call quietly,$(QUANTIZE)/bin/pip install --quiet --no-deps --require-hashes -r requirements/quantize.txt)
	$(call quietly,$(QUANTIZE)/bin/pip show torch | grep -q '^Version:.*cpu' || $(QUANTIZE)/bin/pip install --quiet torch==2.13.0)
	touch $@

$(MODELS) &: | $(ENVIRONMENT)
	echo "set-up 4/5  models in models/"
	$(BIN)/gristmill models prepare

$(SAMPLE): datasets/make_sample.py | $(ENVIRONMENT)
	echo "set-up 5/5  sample dataset (66 MB to download)"
	$(BIN)/python datasets/make_sample.py
	touch $@

# Needs uv; writes the locks anew from requirements/*.in.
UV ?= uv
UV_COMPILE := $(UV) pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28
LEFT_OUT := --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec
lock:
	cd requirements
	$(UV_COMPILE) $(LEFT_OUT) --no-emit-package torch --no-emit-package triton cpu.in -o cpu.txt
	$(UV_COMPILE) $(LEFT_OUT) cuda.in -o cuda.txt
	$(UV_COMPILE) dev.in -o dev.txt
	$(UV_COMPILE) $(LEFT_OUT) --no-emit-package torch --no-emit-package triton quantize.in -o quantize.txt

clean:
	rm -rf $(VENV) $(QUANTIZE) $(STATE) datasets/sample build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
