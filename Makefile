# One-word targets; each makes .venv when it is missing or stale.
PYTHON ?= $(shell for version in 3.11 3.12 3.13; do python$$version -c '' 2>/dev/null && echo python$$version && exit; \
	done; echo python3)
BIN := .venv/bin
ROOM ?=
SAMPLE ?= 60

.PHONY: demo test test-all lint types bench docs package matrix mutants browser clean help

help:      ## what there is
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/^([a-z-]+):.*## */make \1\t/' | expand -t 16

# What the demo needs comes first, so that it is there soon; what the tests need is added when they are asked for.
# A torch for CPUs alone is taken where pip is set up to find it: its own choice brings gigabytes of CUDA.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --no-build-isolation \
		scikit-learn --editable '.[torch,cli,plot]'
	touch $@

.venv/ready: .venv/demo
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	touch $@

demo: .venv/demo ## a growing batch against fixed ones, on real data
	rm -rf runs/demo
	$(BIN)/adabatch compare digits --out runs/demo

lint: .venv/ready ## style, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/ready ## static types
	$(BIN)/mypy

test: lint types browser ## style, types, fast tests
	$(BIN)/pytest -q --doctest-modules src/adabatch
	$(BIN)/pytest -n 2 -m "not slow and not gpu"

# Coverage is measured here alone: it makes tests that are Python alone take three times as long.
test-all: lint types browser .venv/tools ## the slow tests too, and how many lines all of them run
	$(BIN)/pytest -q --doctest-modules src/adabatch
	$(BIN)/pytest -n 2 -m "not gpu" --cov

.venv/tools: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,docs,package]'
	touch $@

package: .venv/tools ## wheel and sdist in dist, installed and tried in bare environments; downloads torch twice
	$(BIN)/python .ci/check_package.py

matrix: ## the fast tests on each Python and torch that can be had here; takes hours and gigabytes
	$(PYTHON) .ci/matrix.py

.venv/mutants: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,mutants]'
	touch $@

mutants: .venv/mutants ## how many small changes the tests notice; ROOM=couplings takes minutes
	$(BIN)/python tests/mutants.py $(ROOM) --sample $(SAMPLE)

browser: ## Chromium for the tests of the page; installed where root, as in a container, runs this
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null && exit 0; \
	fi; \
	echo "no Chromium here, so the tests of the page in a browser skip; as root: apt-get install -y chromium"

bench: .venv/ready ## the benchmarks; results go to benchmarks/results
	$(BIN)/python benchmarks/loop.py --out benchmarks/results/loop.json

docs: .venv/tools ## the site in build/site, links checked; runs the code blocks of README and docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python website/check.py build/site
	$(BIN)/pytest -n 2 tests/test_docs.py

clean: ## removes .venv, runs and what was built
	rm -rf .venv runs build dist
