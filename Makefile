# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv once and re-installs nothing after.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT := out

.PHONY: bench demo serve test check lint types install install-test clean

demo: install
	@mkdir -p $(OUT)
	$(BIN)/heliograph generate \
		"a big pink balloon floats to the left over snowy mountains by day" --seconds 60 --enlarge 4 --output $(OUT)/demo.mp4 --overwrite

serve: install
	$(BIN)/heliograph serve

bench: install
	$(BIN)/heliograph bench --against diffusers

# The page is tested where there is a browser: apt-get install chromium chromium-driver
test: install-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: install-test lint types test

lint: install-test
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench

types: install-test
	$(BIN)/pyright

install: $(VENV)/.installed

install-test: $(VENV)/.installed-test

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt tests/serve/openai-current.txt | $(BIN)/python
	$(PIP) --editable ".[test]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target $(VENV)/openai-current --requirement tests/serve/openai-current.txt
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(OUT) build src/*.egg-info
