# netplane: `make lab` starts a cluster on this machine, `make test` runs every check. Each does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := python3-venv python3-dev gcc libc6-dev iproute2 iputils-ping procps util-linux kmod nftables iptables \
  libxtables12 ipset conntrack crun conmon busybox-static curl haproxy $(KUBECTL)
# What only the tests want: other runtimes and plugins, etcd, a router, machines and the box they boot from.
TEST_PACKAGES := containerd runc podman containernetworking-plugins etcd-server bird2 qemu-system-x86 qemu-utils \
  ipvsadm openssh-client mmdebstrap extlinux syslinux-common fdisk e2fsprogs
# What only `make test-vagrant` wants.
VAGRANT_PACKAGES := vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients dnsmasq-base rsync
# Debian's kubectl is old, but better than none; a newer one on the PATH is left alone.
KUBECTL := $(shell command -v kubectl >/dev/null || echo kubernetes-client)
missing = $(shell for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)
PYTEST := $(BIN)/pytest -q
# With a real kernel, runtime or server in it: a second attempt is listed, and more than a few fail the lane.
LIVE := $(PYTEST) --reruns 1
SRC := netplane cni proxy tests

.PHONY: help lab lab-down test lanes check bench setup test-setup packages lint types contracts unit kernel api cluster \
  runtimes vm beside scenarios machines machines-core test-vagrant clean

help: ## show this
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: setup ## start a three-node cluster on this machine
	@$(BIN)/netplane lab up $(LAB)

lab-down: setup ## remove every trace of it
	@$(BIN)/netplane lab down

# Where the scenarios' lanes leave what they found, for one table of all places at the end.
RESULTS := $(CURDIR)/$(VENV)/scenarios

test: check ## run every check (about 35 minutes; needs root)
	@rm -f $(RESULTS); code=0; \
	NETPLANE_SCENARIO_RESULTS=$(RESULTS) $(MAKE) --no-print-directory -j2 lanes beside || code=$$?; \
	[ ! -f $(RESULTS) ] || { echo; sh vagrant/scenarios/table.sh $(RESULTS); \
	echo "(not here: that place has no such thing; not run: \`make machines\` asks machines for all of them)"; }; exit $$code

# Emulated machines wait more than they work: they run beside the lanes on this kernel, and show their words at their end.
lanes: test-setup
	@for lane in kernel api cluster runtimes scenarios; do $(MAKE) --no-print-directory $$lane || exit 1; done

beside: test-setup
	@log=$$(mktemp); code=0; \
	for lane in vm machines-core; do $(MAKE) --no-print-directory $$lane >>$$log 2>&1 || code=$$?; done; \
	echo "== in emulated machines"; cat $$log; rm -f $$log; exit $$code

check: test-setup lint types contracts unit ## the fast ones: lint, types, import contracts, unit and property tests

bench: test-setup ## measure: figures, ratios and how they grow
	@missed=; for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || missed="$$missed $$script"; done; \
	[ -z "$$missed" ] || { echo "goals missed by:$$missed"; exit 1; }

setup: packages $(VENV)/.ready

test-setup: setup
	@$(call install,$(TEST_PACKAGES))

packages:
	@$(call install,$(PACKAGES))

# Installs those of the Debian packages $(1) that are missing.
define install
missing="$(strip $(call missing,$(1)))"; [ -z "$$missing" ] || { \
  [ "$$(id -u)" = 0 ] || { echo "netplane: installing $$missing needs root"; exit 1; }; \
  echo "installing Debian packages: $$missing"; \
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
}
endef

$(VENV)/.ready: pyproject.toml | packages
	@echo "installing netplane into $(VENV)"
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear $(VENV)
	@for what in wheel "-e .[dev,iptables,containerd]"; do \
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
	$(LIVE) tests/parity tests/kernel

api:
	$(LIVE) tests/api

cluster:
	$(LIVE) tests/cluster

runtimes: test-setup ## run pods under containerd and podman
	$(LIVE) tests/runtimes

VM_TESTS ?= tests/vm
vm: test-setup ## the tests that need Debian's own kernel, in an emulated machine
	$(BIN)/python -m tests.vm.machine --timeout 1500 -- $(CURDIR)/$(LIVE) -p no:cacheprovider $(VM_TESTS)

scenarios: test-setup ## judge labs of both runtimes by the scenarios of vagrant/
	$(LIVE) tests/vagrant -k lab

machines-core: test-setup ## judge a cluster of virtual machines by the most telling of them
	$(LIVE) tests/vagrant -k core

machines: test-setup ## judge a cluster of virtual machines by the same (emulated: half an hour)
	$(LIVE) tests/vagrant -k machines

test-vagrant: test-setup ## the same through Vagrant itself, with all scenarios (an hour under emulation)
	@$(call install,$(VAGRANT_PACKAGES))
	$(BIN)/python -m tests.vagrant.vagrant

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
