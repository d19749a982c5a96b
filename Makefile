# make demo | test | check | soak: each sets itself up first; nothing but Python 3.11 or newer is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test soak check format docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[vision,hf,translation,integrations,dev]'
	touch $(STAMP)

# The main job on the embedded default: sweep a proxy, transfer, train the target.
demo: setup
	$(BIN)/python benchmarks/demo.py

# A process per core, four at most; a file's tests stay in one.
test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Faults at random moments, up to an hour on 2 cores.
soak: setup
	$(BIN)/python -m pytest tests/sweep/soak.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/build.py --check
	$(BIN)/python docs/prose.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Rewrites what is generated in docs/: tables of rules.md and exit-codes.md, config.md, cli.md, config.schema.json.
docs: setup
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
