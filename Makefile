# Every target is a line or two that a person could type; CI calls the same ones.

PYTHON ?= python3
EXTRAS ?= box2d,mujoco,atari,ray,dev
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RUN    := runs/cartpole-$(shell date +%Y%m%d-%H%M%S)

.PHONY: setup kernels train test test-slow check format peers bench guard clean

setup: $(STAMP)

# A stamp, so that a second call costs nothing until the dependencies change.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard rl/core/kernels/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: name a newer one with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt torch==2.13.0 -e ".[$(EXTRAS)]"
	@touch $@

# Compiles the C files of rl/core/kernels, and says why it cannot; `setup` does it, too.
kernels: $(STAMP)
	$(BIN)/python hatch_build.py

# The preset's budget solves CartPole-v1; the evaluation after it shows whether it did.
train: $(STAMP)
	$(BIN)/train --algo ppo --env CartPole-v1 --seed 1 --run-dir $(RUN)
	$(BIN)/rl evaluate $(RUN) --episodes 20
	@echo "Open the board with: $(BIN)/tensorboard --logdir runs"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict rl
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The libraries that `bench` compares with, outside of the tree; WITH=--rllib for RLlib, too.
peers:
	$(PYTHON) benchmarks/make_peers.py $(WITH)

# BENCH="--only ppo_pong", say. An hour or two; nothing else should run meanwhile.
bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py $(BENCH)

guard: $(STAMP)
	$(BIN)/python benchmarks/guard.py $(GUARD)

clean:
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
