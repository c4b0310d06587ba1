.DEFAULT_GOAL := help
PYTHON ?= python
INSTALL_FLAGS ?= -q
unexport PYTHONDONTWRITEBYTECODE  # else each process would compile the laboratory and its tests again

help:  ## show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install:  ## install the laboratory into the active environment
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e .

sweep: install  ## the first command of the README: three LoRA ranks over the shipped base
	$(PYTHON) -m lab.train lora.r=8,16,32 -m

install-test:  ## install what tests need
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e '.[test]'

test-alone: install-test  ## the seconds that the manual takes, measured with nothing beside it
	$(PYTHON) -m pytest -n 0 --noconftest --durations=0 tests/test_architecture.py -k answers_at_once

test: test-alone  ## install what tests need and run them
	$(PYTHON) -m ruff check
	$(PYTHON) -m pytest

types: install-test  ## the types of lab/ by basedpyright, which is pyright with its Node.js in the wheel: about a minute and a half
	$(PYTHON) -m basedpyright --pythonpath "$$($(PYTHON) -c 'import sys; print(sys.executable)')"

test-tools: install-test  ## the tests of tools/, which no user needs
	$(PYTHON) -m pytest -n 0 tools/tests

study:  ## the study of questions about products on small checkpoints: curation, four families, six metrics, report; under 15 minutes
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e '.[test,encoder]'
	$(PYTHON) -m tools.study

grid:  ## every pair of options, run and verified: about 220 rows, a bar and a table
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e '.[test,quantised]'
	PYTHONPATH=tests $(PYTHON) -m grid

bars:  ## what takes minutes, at the size and in the dtype that users run: each command, how it ended, what it printed last
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e '.[test,quantised]'
	$(PYTHON) tests/bars.py

report:  ## write report/ from the latest sweep
	$(PYTHON) -m lab.report

gpu-wheels:  ## bring along what a GPU machine without a package registry lacks, in cache/wheels, for python -m tests.gpu
	$(PYTHON) -m pip wheel $(INSTALL_FLAGS) --no-deps -w cache/wheels 'hydra-core>=1.3.8,<1.4' 'omegaconf>=2.3,<2.4' 'antlr4-python3-runtime==4.9.*'

docs:  ## the pages of docs/ as a site in site/; a link that leads nowhere fails
	$(PYTHON) -m pip install $(INSTALL_FLAGS) -e '.[docs]'
	DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict -q

tiny-base:  ## make the shipped tiny base again, from nothing (about 50 minutes on one core)
	$(PYTHON) -m tools.pretraining --out cache/tiny_base

.PHONY: help install install-test sweep test-alone test types test-tools study grid bars report gpu-wheels docs tiny-base
