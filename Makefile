# SPDX-License-Identifier: GPL-3.0-or-later
# Development: one command per thing one does here. "make" lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:

CHECKOUT := $(CURDIR)
VENV := .venv
STAMP := $(VENV)/.installed

# Molecule and ansible-runner look their programs up in PATH: the environment's come first.
export PATH := $(CHECKOUT)/$(VENV)/bin:$(PATH)
# What runs here must not depend on the settings of whoever runs it.
unexport ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH ZCLUSTER_INVENTORY VIRTUAL_ENV PYTHONPATH PYTHONDONTWRITEBYTECODE

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Program it is needed for, Debian package that has it.
PACKAGES := \
	git:git ssh:openssh-client ssh-keygen:openssh-client ip:iproute2 podman:podman \
	mmdebstrap:mmdebstrap iptables:iptables nft:nftables strace:strace

# A Python that is new enough and can make environments; Debian's own first, never that of .venv.
FIND_PYTHON = for python in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	found=$$(PATH="$${PATH\#"$(CHECKOUT)/$(VENV)/bin:"}" type -P "$$python") || continue; \
	"$$found" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
		|| continue; \
	echo "$$found"; break; done

PYTEST ?= pytest
PYTEST_ARGS ?=

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

.PHONY: deps
deps: ## Install the Debian packages that are missing
	@missing=()
	for pair in $(PACKAGES); do
		command -v "$${pair%%:*}" > /dev/null || PATH=$$PATH:/usr/sbin:/sbin command -v "$${pair%%:*}" > /dev/null \
			|| missing+=("$${pair##*:}")
	done
	# podman alone is not enough: something must start containers, something must give them networks
	command -v crun > /dev/null || command -v runc > /dev/null || missing+=(runc)
	[ -x /usr/lib/podman/netavark ] || [ -x /usr/libexec/podman/netavark ] || missing+=(netavark)
	[ -n "$$($(FIND_PYTHON))" ] || missing+=(python3-venv python3-pip)
	if [ $${#missing[@]} -gt 0 ]; then
		command -v apt-get > /dev/null || { echo "Please install: $${missing[*]}" >&2; exit 1; }
		echo "Installing: $${missing[*]}"
		$(SUDO) apt-get update --quiet --quiet
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes \
			--no-install-recommends "$${missing[@]}"
	fi

$(STAMP): pyproject.toml hatch_build.py | deps
	@python=$$($(FIND_PYTHON))
	[ -n "$$python" ] || { echo "Python 3.11 or newer with venv is missing" >&2; exit 1; }
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

.PHONY: venv
venv: $(STAMP) ## Make .venv with everything needed here; the checkout is live in it

.PHONY: lint
lint: $(STAMP) ## Style of Python, Ansible, YAML and shell
	ruff check .
	ruff format --check .
	yamllint --strict .
	ansible-lint --offline

.PHONY: types
types: $(STAMP) ## Types, strictly
	mypy zcluster_runner hatch_build.py tests/unit/runner
	MYPYPATH=$(CHECKOUT)/.cache/collection mypy --package ansible_collections.zcluster.ha.plugins
	MYPYPATH=$(CHECKOUT)/roles/manager/files mypy --package zclustermanager
	mypy roles/lab/files
	MYPYPATH=tests/lab:roles/lab/files:bench/driver mypy --explicit-package-bases bench

.PHONY: unit
unit: $(STAMP) ## Unit tests
	$(PYTEST) $(PYTEST_ARGS) tests/unit

.PHONY: test-machine
test-machine: $(STAMP) ## Synchronization's state machine with new random examples (EXAMPLES=2000)
	EXAMPLES=$(or $(EXAMPLES),2000) $(PYTEST) $(PYTEST_ARGS) tests/unit/manager/test_sync_machine.py

.PHONY: sanity
sanity: $(STAMP) ## ansible-test sanity over the collection
	tests/sanity/run

.PHONY: lab-up
lab-up: $(STAMP) ## Start the lab (LAB_UP="--front NETWORK": with other options)
	$(SUDO) env "PATH=$$PATH" zcluster lab up $(LAB_UP)

.PHONY: lab-down
lab-down: $(STAMP) ## Stop the lab, put back what it changed
	$(SUDO) env "PATH=$$PATH" zcluster lab down

.PHONY: test-lab
test-lab: lab-up ## Tests on the lab
	$(SUDO) env "PATH=$$PATH" $(PYTEST) --durations=15 $(PYTEST_ARGS) tests/lab

.PHONY: test-all
test-all: lab-up ## Every lab test, the long tables too
	$(SUDO) env "PATH=$$PATH" $(PYTEST) $(PYTEST_ARGS) -m lab tests/lab

.PHONY: test-services
test-services: lab-up ## The longer tests of managed services, on the lab
	$(SUDO) env "PATH=$$PATH" $(PYTEST) $(PYTEST_ARGS) -m services tests/lab

.PHONY: test-sync
test-sync: lab-up ## All tests of synchronization on the lab, the longer ones too
	$(SUDO) env "PATH=$$PATH" $(PYTEST) $(PYTEST_ARGS) -m lab tests/lab/test_sync.py

.PHONY: test-faults
test-faults: lab-up ## Every fault under live traffic; SEED=n [STEPS=n]: a random sequence of them
	@if [ -n "$(SEED)" ]; then
		chosen=(-k test_seeded_sequence)
		export SEED=$(SEED) STEPS=$(or $(STEPS),20)
	else
		chosen=(-m matrix)
	fi
	$(SUDO) env "PATH=$$PATH" SEED="$${SEED:-}" STEPS="$${STEPS:-}" \
		$(PYTEST) $(PYTEST_ARGS) "$${chosen[@]}" tests/lab/test_faults.py

# The systems take turns, and it goes on where it ended; BENCH_SECONDS: begin nothing after so long.
.PHONY: bench-failover
bench-failover: lab-up ## What a failover costs, beside keepalived by hand (BENCH_ROUNDS=20)
	$(SUDO) env "PATH=$$PATH" python bench/failover.py run --outage $(or $(BENCH_ROUNDS),20) \
		--http $(or $(BENCH_ROUNDS),20) --seconds $(or $(BENCH_SECONDS),0)
	python bench/failover.py report

.PHONY: bench-sync
bench-sync: $(STAMP) ## What a change costs, beside lsyncd, rsync loops and unison (BENCH_ROUNDS=3)
	$(SUDO) env "PATH=$$PATH" python bench/sync.py run --single $(or $(BENCH_ROUNDS),3)
	python bench/sync.py report

.PHONY: test-create
test-create: lab-up ## All tests of create, those that `make test` leaves out too (SEED=n: killed elsewhere)
	$(SUDO) env "PATH=$$PATH" "SEED=$(SEED)" $(PYTEST) $(PYTEST_ARGS) -m lab tests/lab/test_create.py tests/lab/test_demo.py

.PHONY: test-planned
test-planned: lab-up ## All planned actions under live traffic, those that `make test` leaves out too
	$(SUDO) env "PATH=$$PATH" $(PYTEST) $(PYTEST_ARGS) -m lab tests/lab/test_planned.py tests/lab/test_update.py tests/lab/test_unset.py

.PHONY: molecule
molecule: $(STAMP) ## Molecule scenarios on the lab
	$(SUDO) env "PATH=$$PATH" molecule test --all

.PHONY: demo
demo: $(STAMP) ## A cluster made, its master's power cut under traffic, and what the client saw
	$(SUDO) env "PATH=$$PATH" "LAB_UP=$(LAB_UP)" demo/run

.PHONY: demo-down
demo-down: lab-down ## Leave nothing of the demo but the cached image and .venv

# pytest last: its summary is the last line.
.PHONY: test
test: lint types docs-check unit sanity molecule lab-up ## Everything
	$(SUDO) env "PATH=$$PATH" "SEED=$${SEED:-}" $(PYTEST) --durations=15 $(PYTEST_ARGS) tests/lab

.PHONY: docs
docs: $(STAMP) ## Write docs/verbs.md from the table of actions
	python -m zcluster_runner.reference > docs/verbs.md

.PHONY: docs-check
docs-check: $(STAMP) ## docs/verbs.md says what the table of actions says
	@python -m zcluster_runner.reference | diff -u docs/verbs.md - \
		|| { echo "docs/verbs.md is out of date: make docs" >&2; exit 1; }

.PHONY: bench-driver
bench-driver: lab-up ## The driver beside plain Ansible (a cluster on the lab, a quiet machine)
	$(SUDO) env "PATH=$$PATH" python bench/driver/run.py pair inventories/lab
	$(SUDO) env "PATH=$$PATH" python bench/driver/run.py create inventories/lab
	$(SUDO) env "PATH=$$PATH" python bench/driver/run.py hundred
	$(SUDO) env "PATH=$$PATH" python bench/driver/run.py import
	python bench/driver/run.py report

.PHONY: build
build: $(STAMP) ## Wheel and collection tarball, in dist/
	pip wheel --quiet --no-deps --wheel-dir dist .
	ansible-galaxy collection build --force --output-path dist

.PHONY: clean
clean: ## Remove what tools made here (the lab: make lab-down)
	rm -rf $(VENV) .cache .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
