# make demo: meta-train a learned optimizer on real images and compare it with Adam.   make test: the tests.
# Both need nothing but Python 3.11 or newer; what they install goes into .venv, their data and results into runs/.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
LOWEST_PYTHON ?= python3.11
BIN := .venv/bin
DEMO := runs/demo
# What pip is told to install for the PyTorch side; on a machine without a GPU, the index of CPU builds saves gigabytes.
TORCH ?= torch>=2.5
SHIPPED := --checkpoint=blend --learned=blend_fit,blend_cheap,blend_anytime --horizon=1000
PAPER := influence_balancing toy_regression ridge_l2 lstm_variance lorenz swimmer char_rnn many_hyperparameters lr_schedule \
	learned_optimizer
# Kept between calls: compiled programs, and the data sets that make demo and make test prepare.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/runs/cache/jax
export TFDS_DATA_DIR ?= $(CURDIR)/runs/data

.PHONY: help demo test test-all test-thorough test-slow test-lowest test-torch test-frameworks check docs report soak dist paper bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,2s/^# //p' Makefile
	@echo 'Also: test-all (test and the full tables), test-slow (minutes), test-lowest (minutes, lowest versions), test-torch (installs PyTorch, which is large), test-frameworks (Lightning and Hugging Face too), check (linter and type checker), docs (the site), report (evaluates what ships, hours), soak (kills commands, up to four hours), dist (sdist and wheel), paper (experiments, minutes), bench (speed), clean (all that these made).'

.venv/ready: requirements.txt
	@test -n "$(PYTHON)" || { echo 'lopt needs Python 3.11 or newer: make PYTHON=/path/to/python demo'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/ready
	$(BIN)/python meta_train.py --preset=mlp_digits --workdir=$(DEMO)
	$(BIN)/python meta_eval.py --checkpoint=$(DEMO) --horizon=500 --out=$(DEMO)/eval
	@echo
	@echo 'The picture: $(DEMO)/eval/curves.png   The summary: $(DEMO)/eval/summary.json'
	@echo 'Use it in your own loop: tx = lopt.load("$(DEMO)")'

test: .venv/ready
	$(BIN)/python -m pytest

test-all: test test-thorough

# What make test leaves out of the tables.
test-thorough: .venv/ready
	$(BIN)/python -m pytest -m "thorough and not slow"

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# Before each release, and when a bound changes: the lowest versions that requirements.txt and pyproject.toml allow.
test-lowest: runs/lowest/ready
	runs/lowest/bin/python -m pytest

runs/lowest/ready: requirements.txt
	$(LOWEST_PYTHON) -m venv runs/lowest
	sed -E 's/>=([^, ]+)(,[^ ]+)?/==\1/' requirements.txt > runs/lowest/requirements.txt
	runs/lowest/bin/python -m pip install --quiet --disable-pip-version-check -r runs/lowest/requirements.txt
	@touch $@

# The PyTorch side, all rows. PyTorch is gigabytes, so nothing else installs it; with it, make test has these tests too.
test-torch: .venv/torch
	$(BIN)/python -m pytest -m "not slow" tests/torch_side

.venv/torch: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@touch $@

# The snippets of docs/pytorch.md in Lightning, accelerate and the Trainer of transformers, which make test skips.
test-frameworks: .venv/frameworks
	$(BIN)/python -m pytest -n0 tests/torch_side/test_frameworks.py

.venv/frameworks: .venv/torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check lightning transformers accelerate "$(TORCH)"
	@touch $@

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# What ships, evaluated again: results/evaluation and results/held_out. Runs are kept, so that it goes on where it was.
report: .venv/ready
	$(BIN)/python meta_eval.py $(SHIPPED) --tasks=pool_valid --num_seeds=3 --out=results/evaluation --overwrite \
		--baselines=adam_cosine,adamw,adamw_grid,muon_cosine,soap_cosine,ademamix_cosine,prodigy_cosine,mechanic_cosine,schedule_free_adamw
	$(BIN)/python meta_eval.py $(SHIPPED) --tasks=held_out --num_seeds=2 --out=results/held_out --overwrite \
		--baselines=adam_cosine,muon_cosine

# Before each release: kills training, evaluation and the preparation of data at random moments, hundreds of times. The
# seconds are bounds, wide enough for a machine that others use as well.
soak: .venv/ready
	$(BIN)/python -m benchmarks.soak --what=train --kills=200 --seconds=7200
	$(BIN)/python -m benchmarks.soak --what=eval --kills=50 --seconds=3600
	$(BIN)/python -m benchmarks.soak --what=data --kills=50 --seconds=3600

# The site, in runs/docs/html. Its notebooks run once, until they or the code change; its links are checked.
docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs runs/docs/html
	$(BIN)/python -m docs.building.notebooks
	$(BIN)/python -m pytest -n0 tests/docs/test_site.py
	@echo 'The site: runs/docs/html/index.html'

.venv/docs: .venv/ready docs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	@touch $@

# What a person publishes: the sdist and the wheel that is built out of it, the same bytes for the same commit.
dist: runs/release/ready
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) runs/release/bin/python -m build
	runs/release/bin/python -m twine check --strict dist/*

runs/release/ready:
	$(PYTHON) -m venv runs/release
	runs/release/bin/python -m pip install --quiet --disable-pip-version-check build twine
	@touch $@

# One stamp an experiment, so that a run that was stopped goes on where it was; without runs/paper, all run anew.
paper: $(PAPER:%=runs/paper/%)

runs/paper/%: experiments/%.py | .venv/ready
	@echo '== $*'
	$(BIN)/python -m experiments.$*
	@mkdir -p $(@D) && touch $@

bench: .venv/ready
	$(BIN)/python -m benchmarks.meta_training

clean:
	rm -rf .venv runs dist docs/api
