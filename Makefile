# Every target sets up what it needs, the virtual environment included.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-gpu test-slow lint format docs package clean

demo: $(READY)
	$(RUN)/python -m comparisons run --problems digits --tuners random,tpe,gp,pbt,delta-stn

test: $(READY)
	$(RUN)/python -m pytest -n auto

test-gpu: $(READY)
	$(RUN)/python -m pytest -m gpu

# Optuna's own tests with our studies in place, and processes killed at many points.
test-slow: $(READY)
	$(RUN)/python -m pytest -m slow

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: $(READY)
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: $(READY)
	rm -rf build/site docs/api
	$(RUN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs build/site
	@echo "The site is in build/site: open build/site/index.html"

package: $(READY)
	$(RUN)/python .ci/package.py

clean:
	rm -rf $(VENV) build docs/api *.egg-info

# torch first and on its own, so that nothing pulls in another build of it; of Syne Tune's dependencies
# only dill, for the others are large and not needed here.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --constraint constraints.txt torch
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --no-deps syne-tune dill
	touch $@
