# One command runs what CI runs: make test. `make check` is its fast part.
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
CHAT_VENV := .venv-chat
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo chat test check format evaluate bench soak clean

help:
	@echo "make demo      caption the sample images with the small model that ships here"
	@echo "make chat      open a page to ask the same model in, with its broker and worker"
	@echo "make test      format, lint, types and all tests"
	@echo "make check     format, lint, types and imports only"
	@echo "make format    put the sources in order"
	@echo "make evaluate  measure the demo model on scenes it never saw"
	@echo "make bench     measure the engine beside its peers; takes hours and 20 GB of disk"
	@echo "make soak      every image in every search, and memory over thousands of jobs; takes an hour"

# The runtime and the embedded server: no torch.
$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# The same with the page.
$(CHAT_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CHAT_VENV)
	$(CHAT_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,chat]'
	@touch $@

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/captionmill demo --out demo-out --stop-with-parent

chat: $(CHAT_VENV)/.installed
	$(CHAT_VENV)/bin/captionmill chat --demo

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py

test: check
	$(BIN)/pytest

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evaluate: $(VENV)/.installed
	$(BIN)/python -m demo.evaluate

bench: $(VENV)/.installed
	$(BIN)/python -m bench engine

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak
	$(BIN)/python -m bench.soak --attention stateful
	$(BIN)/python -m bench.soak --attention paged

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(CHAT_VENV) demo-out
