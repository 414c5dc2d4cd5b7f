# netplane: `make lab` starts a cluster on this machine, `make test` runs every check. Each does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := python3-venv python3-dev gcc libc6-dev iproute2 iputils-ping procps util-linux kmod nftables iptables \
  libxtables12 ipset conntrack crun conmon busybox-static curl $(KUBECTL)
# Debian's kubectl is old, but better than none; a newer one on the PATH is left alone.
KUBECTL := $(shell command -v kubectl >/dev/null || echo kubernetes-client)
MISSING = $(shell for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
PYTEST := $(BIN)/pytest -q
SRC := netplane cni proxy tests

.PHONY: help lab lab-down test check bench setup packages lint types contracts unit kernel api cluster vm clean

help: ## show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: setup ## start a three-node cluster on this machine
	@$(BIN)/netplane lab up $(LAB)

lab-down: setup ## remove every trace of it
	@$(BIN)/netplane lab down

test: check kernel api cluster ## run every check (about 10 minutes; needs root)

check: setup lint types contracts unit ## the fast ones: lint, types, import contracts, unit and property tests

bench: setup ## measure: figures, ratios and how they grow
	@missed=; for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || missed="$$missed $$script"; done; \
	[ -z "$$missed" ] || { echo "goals missed by:$$missed"; exit 1; }

setup: packages $(VENV)/.ready

packages:
	@if [ -n "$(strip $(MISSING))" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "netplane: installing $(strip $(MISSING)) needs root"; exit 1; }; \
	  echo "installing Debian packages: $(strip $(MISSING))"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(MISSING) >/dev/null; \
	fi

$(VENV)/.ready: pyproject.toml | packages
	@echo "installing netplane into $(VENV)"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@for what in wheel "-e .[dev,iptables]"; do \
	  $(BIN)/pip install -q --disable-pip-version-check $$what 2>$(VENV)/pip.log || { cat $(VENV)/pip.log; exit 1; }; \
	done
	@$(BIN)/netplane --version >/dev/null && touch $@

lint:
	$(BIN)/ruff check $(SRC)
	$(BIN)/ruff format --check $(SRC)

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

unit:
	$(PYTEST) tests/unit tests/property tests/golden

kernel:
	$(PYTEST) tests/parity tests/kernel

api:
	$(PYTEST) tests/api

cluster:
	$(PYTEST) tests/cluster

VM_PACKAGES := qemu-system-x86 busybox-static kmod
VM_MISSING = $(shell for p in $(VM_PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
VM_TESTS ?= tests/vm

vm: setup ## the tests that need Debian's own kernel, in an emulated machine
	@if [ -n "$(strip $(VM_MISSING))" ]; then \
	  echo "installing Debian packages: $(strip $(VM_MISSING))"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(VM_MISSING) >/dev/null; \
	fi
	$(BIN)/python -m tests.vm.machine --timeout 600 -- $(CURDIR)/$(PYTEST) -p no:cacheprovider $(VM_TESTS)

runtimes: setup ## run pods under containerd and podman, installed as Debian packages
	@$(MAKE) --no-print-directory packages PACKAGES="containerd runc podman"
	@$(BIN)/python -c 'import grpc' 2>/dev/null || $(BIN)/pip install -q --disable-pip-version-check -e ".[runtimes]"
	$(PYTEST) tests/runtimes

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
