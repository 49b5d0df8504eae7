# Each target sets up what it needs; a second call installs nothing.
#   make demo    the main job on the embedded data: train, prune, score, report
#   make test    the tests           make check   style and types
#   make test-fast  the quick ones, a minute or two
#   make bench   speed and memory    make setup   only the environment

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2
# A test's second opinion, without what it asks for: see "Test-only packages" in CONTRIBUTING.md.
ALONE  := curvlinops-for-pytorch==3.0.1

.PHONY: setup demo test test-fast check bench clean

setup: $(READY)

# The marker is made last, so an interrupted install is taken up again.
$(READY): pyproject.toml $(wildcard src/netpress/native/*.[ch])
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing netpress and its tools into $(VENV) (about a minute, once) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(ALONE)
	@touch $(READY)

demo: $(READY)
	@$(BIN)/netpress run digits --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --durations 10

test-fast: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --durations 10 -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build dist src/*.egg-info
