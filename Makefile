# Every target sets up what it needs. A fresh clone wants Python 3.11 or newer, and nothing else.
#   make demo ARGS=--once          make test ARGS="tests/test_config.py -k alias"
SHELL := bash
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-vllm test-openvino control-plane test-cluster check format bench bench-generate soak soak-generate image docs proto constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamps are newer than what they were installed from, or make installs again.
.venv/.demo: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "modelserve needs Python 3.11 or newer with its venv module; found none on PATH." >&2; exit 1; }
	@echo "Installing into .venv; the first time takes some minutes, most of them for PyTorch."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/.demo
	$(PIP) --quiet --editable '.[dev]'
	@touch $@

.venv/.bench: .venv/.dev benchmarks/requirements.txt
	$(PIP) --quiet --requirement benchmarks/requirements.txt
	@touch $@

install: .venv/.dev ## set up .venv with everything that the other targets need

demo: .venv/.demo ## serve real weights, ask them something, keep serving (ARGS=--once ends by itself)
	@$(BIN)/python -m modelserve.demo $(ARGS)

# Two processes for a whole run, a file's tests in one of them; for some tests their start would cost more than it saves.
WORKERS ?= $(if $(findstring tests/,$(ARGS)),,--numprocesses=2 --dist=loadfile)

test: .venv/.dev ## the fast tests
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-all: .venv/.dev ## every test
	$(BIN)/python -m pytest -m "" $(WORKERS) $(ARGS)

test-vllm: .venv/.dev ## vLLM itself on a CPU (makes an environment of 3.5 GB)
	$(BIN)/python -m pytest -m "" tests/backends/vllm_real.py $(ARGS)

control-plane: .venv/.dev ## a real kube-apiserver of Debian's source package, with etcd, under .venvs (6 CPU minutes)
	$(BIN)/python -m tests.deploy.kubernetes.build $(ARGS)

test-cluster: .venv/.dev ## the suite of a cluster: MODELSERVE_TEST_KUBECONFIG's, or a control plane of its own
	$(BIN)/python -m tests.deploy.kubernetes.control_plane $(BIN)/python -m pytest -m cluster tests/cluster $(ARGS)

test-openvino: .venv/.dev ## the real exporter to OpenVINO (makes an environment of 1.5 GB under .venvs)
	$(BIN)/python -m pytest -m openvino tests/conformance/test_openvino_export.py $(ARGS)

check: .venv/.dev ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev ## mend what lint and format can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.bench ## the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

bench-generate: .venv/.bench ## tokens/s of models that write, by backend (ARGS="--backends vllm:bfloat16 --vllm-python …")
	$(BIN)/python -m benchmarks.generate $(ARGS)

soak: .venv/.dev ## kill -9 at 200 random moments of local runs (ARGS=20 for fewer)
	$(BIN)/python -m tests.deploy.soak $(or $(ARGS),200)

soak-generate: .venv/.dev ## 64 callers of a model that writes, for a minute (ARGS=600 for ten)
	$(BIN)/python -m tests.fuzz.crowd $(or $(ARGS),60)

# PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST are taken from the environment, where they are set.
ENGINE ?= docker
BASE ?= python:3.11-slim
TAG ?= modelserve:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
image: ## the container image, by docker or ENGINE=podman (BASE=…, EXTRAS=[openvino], TAG=…)
	$(ENGINE) build --file Containerfile --tag '$(TAG)' --build-arg BASE='$(BASE)' --build-arg EXTRAS='$(EXTRAS)' \
		$(if $(PIP_INDEX_URL),--build-arg PIP_INDEX_URL) $(if $(PIP_EXTRA_INDEX_URL),--build-arg PIP_EXTRA_INDEX_URL) \
		$(if $(PIP_TRUSTED_HOST),--build-arg PIP_TRUSTED_HOST) .

docs: .venv/.dev ## write again what is generated (docs/parameters.md, the tables of docs/sdk.md)
	$(BIN)/python tools/parameters.py
	$(BIN)/python tools/sdk.py

PB := src/modelserve/pb
proto: .venv/.dev ## compile inference.proto again
	$(BIN)/python -m grpc_tools.protoc -I$(PB) --descriptor_set_out=$(PB)/inference.binpb $(PB)/inference.proto

constraints: ## pin today's newest version of every dependency but torch
	rm -rf .venvs/constraints && $(PYTHON) -m venv .venvs/constraints
	.venvs/constraints/bin/python -m pip install --quiet "$$(grep -m1 ^torch== constraints.txt)" '.[dev]'
	@{ grep '^#' constraints.txt; .venvs/constraints/bin/python -m pip freeze --all --exclude modelserve --exclude pip | sed -E 's/\+cpu$$//'; } > .venvs/constraints.txt
	mv .venvs/constraints.txt constraints.txt

clean: ## remove what was built (not .venv)
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .venvs .cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
