# Everything from nothing but Python 3.11+, make, and apt for what is missing. `make help` tells the targets.
# Sizes of the demo: make demo ALLOWED=10 ITERATIONS=300 CONCURRENCY=25 SEED=7
# The database of the demo and of the stack: ENGINE=mysql (the default), mariadb or postgresql
# The tests of MySQL sessions on more than their default: ENGINES=mysql,mariadb make test
SHELL := /bin/sh
PYTHON ?= python3
export PYTHON

RUN := .venv/bin
READY := .venv/.synced
SOURCES := $(wildcard layers functions harness bench examples tests)
# Passed on to the commands where given on make's command line or in the environment.
export ALLOWED ITERATIONS CONCURRENCY SEED STACK_PORT DATABASE_PORT ENGINE ENGINES

.DEFAULT_GOAL := help
.PHONY: demo stack test simulate lint bench clean help prepare package

demo: $(READY)  ## run a fleet on a local stack, with a crash drill; results in build/demo/
	@$(RUN)/python -m harness demo

stack: $(READY)  ## start the same stack, deployed and seeded, and keep it until Ctrl-C
	@$(RUN)/python -m harness stack

test: lint prepare  ## check everything: lint, types, all tests (needs Java and npm too)
	@$(RUN)/python -m harness test $(TESTS)

simulate: $(READY)  ## simulate SIMULATION_STEPS steps (20000000: the nightly size) and show what was met
	@$(RUN)/python -m tests.simulation.runs

lint: $(READY)  ## check style, types and the direction of imports
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy $(SOURCES)
	$(RUN)/lint-imports

bench: $(READY)  ## measure side by side with boto3 and with the published sample
	@$(RUN)/python -m bench

prepare: $(READY)
	@$(RUN)/python -m harness prepare

package: $(READY)  ## build what a release ships, for deployments without sam; in build/package/
	@$(RUN)/python -m harness package

clean:  ## remove all that was made here, .venv too
	rm -rf build .venv .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-8s %s\n", $$1, $$2}'

$(READY): uv.lock pyproject.toml harness/bootstrap.sh
	@harness/bootstrap.sh
	@touch $@
