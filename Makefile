# Two commands on a fresh machine: `make quickstart` and `make test`. Both make .venv and install what they need.
# The text behind ## is what `make help` prints.
PYTHON ?= python3
BIN := .venv/bin
# The oldest Python here that the oldest torch has wheels for.
OLDEST_PYTHON ?= $(shell for v in 10 11 12; do python3.$$v -m venv -h >/dev/null 2>&1 && echo python3.$$v && break; done)
.PHONY: help quickstart test test-slow test-cuda test-oldest test-oldest-onnx claims attention-study wheelhouse docs reference lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: .venv/installed ## install, train TSM on the embedded data set, evaluate: minutes
	@run=runs/quickstart/$$(date +%Y-%m-%d_%H-%M-%S) && \
	$(BIN)/vsn-train name=quickstart hydra.run.dir=$$run && \
	$(BIN)/vsn-eval checkpoint=$$run/checkpoints/best.pt

test: .venv/installed-test lint ## lint, type-check and run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not cuda" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Minutes longer: trains TSM, TSN and two forms of STH to the end, exports every form of every operator.
test-slow: .venv/installed-test ## run the tests that take minutes
	$(BIN)/pytest -m slow

# Compares what one GPU computes with the CPU.
test-cuda: .venv/installed-test ## test a GPU; VSN_TEST_DEVICE=cpu: in miniature on the CPU
	OMP_NUM_THREADS=2 $(BIN)/pytest -m cuda -rs tests/cuda --numprocesses 8 --dist loadgroup --no-loadscope-reorder

# The oldest versions that pyproject.toml allows, in a .venv-oldest of 6 GB: networks, videos, engine, commands.
test-oldest: .venv-oldest/installed-test ## test with the oldest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -m "not slow" tests/models tests/data tests/engine tests/test_commands.py

# The oldest versions of the extra onnx, and of the torch that it needs, in a .venv-oldest-onnx: the exported files.
test-oldest-onnx: .venv-oldest-onnx/installed-test ## the same for the extra onnx
	OMP_NUM_THREADS=1 .venv-oldest-onnx/bin/pytest -m "not slow" tests/analysis/test_export.py

# Trains five STH networks (2.5 hours on 2 cores), rewrites docs/attention.md and its results; a second call continues.
attention-study: .venv/installed-test ## repeat the attention study and rewrite its document
	$(BIN)/python scripts/studies/attention.py --document docs/attention.md

# Trains the operators, six seeds each, on motion_order, and rewrites docs/results/claims.*. No training starts after 27
# minutes; the next call trains the rest. Finished runs are in runs/claims.
claims: .venv/installed ## train all operators and rewrite docs/results/claims.*
	$(BIN)/python scripts/studies/claims.py --minutes 27.5 --rounds 3 --datasets motion_order --seeds 0 1 2 3 4 5 \
		--operators tsn tsm vsn_compact:standard_block=plain vsn_compact vsn_headtail sth sth:integration=sum \
		--runs runs/claims --output docs/results/claims experiment=claims

# Into wheelhouse/, under 60 MB; torch and torchvision have to be installed on that machine.
# make wheelhouse WHEELHOUSE="--python 3.12 --platform manylinux_2_28_x86_64"
wheelhouse: .venv/installed-test ## gather wheels for a machine without a package index
	$(BIN)/python scripts/wheelhouse.py $(WHEELHOUSE)

# Into site/; a broken link is an error.
docs: .venv/installed-docs ## build the documentation site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

# After a change of the keys in vsn_train/config.py.
reference: .venv/installed ## rewrite docs/reference/config.md from the schema
	$(BIN)/python -m vsn_train.config_keys > docs/reference/config.md.new
	mv docs/reference/config.md.new docs/reference/config.md

lint: .venv/installed-test ## formatting, style, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-test: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

.venv/installed-docs: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@

.venv-oldest/installed-test: pyproject.toml constraints/oldest.txt
	@test -n "$(OLDEST_PYTHON)" || { echo "test-oldest needs Python 3.10, 3.11 or 3.12: OLDEST_PYTHON=…"; exit 1; }
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --editable ".[flow,test-core]" --constraint constraints/oldest.txt
	touch $@

.venv-oldest-onnx/installed-test: pyproject.toml constraints/oldest-onnx.txt
	$(PYTHON) -m venv .venv-oldest-onnx
	.venv-oldest-onnx/bin/pip install --quiet --editable ".[onnx,test-core]" --constraint constraints/oldest-onnx.txt
	touch $@

clean: ## remove environments, caches and build outputs
	rm -rf .venv .venv-oldest .venv-oldest-onnx wheelhouse site .mypy_cache .ruff_cache .pytest_cache build dist
