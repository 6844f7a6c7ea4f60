# One command runs what CI runs: make test. `make check` is its fast part.
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
CHAT_VENV := .venv-chat
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo chat settings test test-redis faults check format evaluate bench soak clean

help:
	@echo "make demo      caption the sample images with the small model that ships here"
	@echo "make chat      open a page to ask the same model in, with its broker and worker"
	@echo "make test      format, lint, types and all tests"
	@echo "make test-redis  the tests that need a server, against Debian's redis-server"
	@echo "make faults    every fault test with the waits of a real site, and their table; takes an hour"
	@echo "make check     format, lint, types and imports only"
	@echo "make settings  write docs/settings.md from the classes that hold the settings"
	@echo "make format    put the sources in order"
	@echo "make evaluate  measure the demo model on scenes it never saw"
	@echo "make bench     measure the engine beside its peers; takes hours and 20 GB of disk"
	@echo "make soak      every image in every search, and memory over thousands of jobs; takes two hours"

# The runtime and the embedded server: no torch.
$(DEMO_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

# The same with the page. Gradio 6.31 refuses the Pillow that everything else is tested with.
$(CHAT_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CHAT_VENV)
	sed 's/^pillow==.*/pillow==12.3.0/' constraints.txt > $(CHAT_VENV)/constraints.txt
	$(CHAT_VENV)/bin/pip install --quiet --disable-pip-version-check -c $(CHAT_VENV)/constraints.txt -e '.[chat]'
	@touch $@

demo: $(DEMO_VENV)/.installed
	$(DEMO_VENV)/bin/captionmill demo --out demo-out --stop-with-parent

chat: $(CHAT_VENV)/.installed
	$(CHAT_VENV)/bin/captionmill chat --demo

check: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py tests/test_sizes.py

# Each process has a server and models of its own. `make test TEST_PROCESSES=0` runs them one after another.
TEST_PROCESSES ?= $(shell nproc)

test: check $(CHAT_VENV)/.installed
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal

# REDIS_SERVER: the binary; one server at a URL for most tests, and more for those that end theirs.
REDIS_SERVER ?= $(shell command -v redis-server)
REDIS_PORT ?= 16379

test-redis: $(VENV)/.installed $(CHAT_VENV)/.installed
	@test -n "$(REDIS_SERVER)" || { echo "There is no redis-server; on Debian: apt install redis-server"; exit 1; }
	$(REDIS_SERVER) --port $(REDIS_PORT) --bind 127.0.0.1 --save '' --daemonize no & server=$$!; \
	trap "kill $$server" EXIT; \
	TEST_REDIS_URL=redis://127.0.0.1:$(REDIS_PORT) TEST_REDIS_SERVER=$(REDIS_SERVER) \
	$(BIN)/pytest -m "server and not soak and not faults"

faults: $(VENV)/.installed
	FAULT_WAITS=shipped $(BIN)/pytest tests/faults -m "faults or not faults"; code=$$?; \
	$(BIN)/python -m tests.faults.table && exit $$code

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

settings: $(VENV)/.installed
	$(BIN)/python -m captionmill.settings_page

evaluate: $(VENV)/.installed
	$(BIN)/python -m demo.evaluate

bench: $(VENV)/.installed
	$(BIN)/python -m bench engine

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak
	$(BIN)/python -m tests.faults.soak --minutes 60 --seed 1 --out docs
	$(BIN)/python -m bench soak --attention stateful
	$(BIN)/python -m bench soak --attention paged

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(CHAT_VENV) demo-out
