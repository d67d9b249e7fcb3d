# Two commands are all a newcomer needs:  make demo  and  make test.
PYTHON ?= python3
PORT   ?= 8000
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := .demo
PYTEST := $(BIN)/python -m pytest
# As many tests at once as there are cores, and one more, since many wait for a process.
JOBS   ?= $(shell $(BIN)/python -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
# The Pythons that `make test-all` looks for, as commands.
PYTHONS ?= python3.11 python3.12 python3.13

.PHONY: demo test test-slow test-all test-everything test-pythons test-python lint format wheel clean
.DEFAULT_GOAL := demo

# One virtual environment, filled in two steps: what runs, then what checks.
$(VENV)/.runtime: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cli,testing,redis,nats]' --group dev
	touch $@

demo: $(VENV)/.runtime
	rm -rf $(DEMO) && mkdir $(DEMO)
	cd $(DEMO) && ../$(BIN)/pachinko new tea-room --yes --no-git
	cd $(DEMO)/tea-room && ../../$(BIN)/pachinko serve --port $(PORT)

# What a newcomer runs: three minutes at most on two cores.
test: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist worksteal -m 'not slow and not exhaustive' $(ARGS)
	@echo 'Left out: whole projects, browsers, storms, outages, other servers (make test-slow, make test-all).'

# The rest of what CI runs; property tests come again, with more examples.
test-slow: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist loadscope -m '(slow or hypothesis) and not exhaustive' \
		--hypothesis-profile=slow $(ARGS)

# All there is, before a large change lands: an hour or so.
test-all: test-everything test-pythons

test-everything: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist loadscope --hypothesis-profile=exhaustive $(ARGS)

test-pythons:
	@for python in $(PYTHONS); do \
		if $$python -c '' 2>/dev/null; then \
			$(MAKE) test-python PYTHON=$$python VENV=.venv-$$python || exit 1; \
		else \
			echo "Left out: $$python, which is not installed."; \
		fi; \
	done

# The rings that do not start the project's own commands, on one Python and on all loops it has.
test-python: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) --dist worksteal tests/unit tests/memory tests/conformance
	$(PYTEST) -n $(JOBS) --dist worksteal --loop=uvloop tests/memory
	! $(BIN)/python -c 'from asyncio import eager_task_factory' 2>/dev/null || \
		$(PYTEST) -n $(JOBS) --dist worksteal --loop=eager tests/memory

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.dev
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) $(VENV)-* $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .hypothesis
