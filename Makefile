# `make repro` and `make test` are all that a fresh machine needs; each makes .venv first if it must.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A folder of the user's own: DVC's default is writable by all, and DVC unpickles what lies there (see SECURITY.md).
export DVC_SITE_CACHE_DIR ?= $(shell cache="$${XDG_CACHE_HOME:-$$HOME/.cache}/instruct/dvc"; mkdir -p "$$cache" && chmod 700 "$$cache" && echo "$$cache")
TORCH := torch==2.13.0
INSTALL := pip install -q --disable-pip-version-check --no-deps --require-hashes

.DEFAULT_GOAL := help
.PHONY: help install repro smoke test test-slow test-fuzz test-gpu lint reference format bench bench-train bench-generate bench-judge bench-prefer bench-serve bench-ask serve lock clean bench-data report view plots screenshot docs animations verify experiments

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.runtime  ## make .venv with what the pipeline needs

repro: $(VENV)/.runtime  ## run the pipeline: split, train, generate, evaluate, plot
	instruct check
	dvc repro

smoke: $(VENV)/.runtime  ## the same stages with a tiny random model, in a scratch copy, under a minute
	instruct smoke

serve: $(VENV)/.dev  ## answer over OpenAI's interface, with a page at http://127.0.0.1:8080
	instruct serve $(ARGS)

view: $(VENV)/.runtime  ## open one offline page with every experiment: table, curves, answers to search
	instruct view $(ARGS)

plots: $(VENV)/.dev  ## write DVC's charts to dvc_plots/index.html, with Vega beside them, so that no network is needed
	dvc plots show
	python -c "import vl_convert; print(vl_convert.javascript_bundle(vl_version='5.20'))" > dvc_plots/vega.js

screenshot: $(VENV)/.dev  ## take the README's picture of that page again (needs Chromium)
	instruct view --no-open
	python tests/screenshot.py build/view/index.html .github/view.png

docs: $(VENV)/.dev  ## build docs/ into an offline site: build/docs/index.html; a warning is an error
	python -m sphinx --nitpicky --fail-on-warning --keep-going --quiet -b html docs build/docs $(ARGS)

animations: $(VENV)/.runtime  ## draw the animations of docs/ from the run in this folder
	python docs/animations/draw.py

verify: $(VENV)/.runtime  ## run the commit again in a clean clone: dvc.lock and metrics must come out the same
	instruct verify $(ARGS)

experiments: $(VENV)/.runtime  ## run the ablations of the default backbone, those that matter with two seeds, and print their table
	instruct recipe --all --queue
	dvc exp run --run-all
	instruct recipe --all --table

# Two workers share the processors: a thread that waits for another must not burn what the other worker needs.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: $(VENV)/.dev  ## run the tests
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(ARGS)

test-slow: $(VENV)/.dev  ## run the tests that take minutes
	pytest -m "slow and not gpu" $(ARGS)

test-fuzz: $(VENV)/.dev  ## run the property tests with ten times as many inputs
	FUZZ=10 pytest -m "hypothesis and not gpu" $(ARGS)

OUT ?= build/gpu
test-gpu: $(VENV)/.dev  ## run all checks that need a GPU, in eight minutes at most, into OUT=build/gpu
	PYTHON=$(BIN)/python bash tests/gpu/run.sh $(OUT) $(ARGS)

reference: $(VENV)/.dev  ## write docs/reference/settings.md and commands.md again from the code
	python docs/reference/generate.py

lint: $(VENV)/.dev  ## check style, types and wording
	ruff format --check .
	ruff check .
	mypy
	python tests/prose.py

format: $(VENV)/.dev  ## put the code into shape
	ruff format .
	ruff check --fix .

BASE ?= main
report: $(VENV)/.runtime  ## compare the workspace with BASE=main: report/report.md and report/report.html
	instruct compare $(BASE) workspace $(ARGS)

bench: bench-train bench-generate  ## time training and generation against other programs, interleaved

# ARGS="--device cuda --shape gpt2-355m" times them on a GPU.
bench-train: $(VENV)/.dev $(VENV)-bench/.done  ## time training against transformers, TRL and the chapter
	python tests/benchmarks/bench_train.py $(ARGS)

bench-generate: $(VENV)/.dev $(VENV)-bench/.done  ## time generation against transformers, CTranslate2 and others
	python tests/benchmarks/bench_generate.py $(ARGS)

bench-prefer: $(VENV)/.dev $(VENV)-bench/.done  ## time preference tuning against TRL, with and without precomputed references
	python tests/benchmarks/bench_prefer.py $(ARGS)

bench-judge: $(VENV)/.dev  ## time asking a judge against a local server with a set latency
	python tests/benchmarks/bench_judge.py $(ARGS)
bench-serve: $(VENV)/.dev  ## time the server at 1, 8 and 32 clients against llama-server and transformers
	python tests/benchmarks/bench_serve.py $(ARGS)
bench-ask: $(VENV)/.dev  ## time instruct ask from a cold start to its first character
	python tests/benchmarks/bench_ask.py $(ARGS)
bench-data: $(VENV)/.dev $(VENV)-bench/.done  ## time the search for near-duplicates and the split of a million records
	python tests/benchmarks/bench_data.py $(ARGS)
# What `make bench` measures against, in an environment of its own.
BENCH := ctranslate2 rensa scikit-learn $(TORCH) transformers trl xllamacpp
COMPILE := uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url
# torch has another build for each kind of machine, so its files have no hash here; nor have those that it alone needs.
WITHOUT_TORCH := awk '/^[a-z]/ {keep = !/^(torch==|triton|nvidia-|cuda-)/} keep'

lock: $(VENV)/.dev  ## write the lock files again from pyproject.toml
	python -m pip install -q uv
	mkdir -p build && cp requirements*.lock build  # what they pin stays, where it can
	$(COMPILE) pyproject.toml -o build/requirements.lock
	$(COMPILE) --extra dev --extra docs -c build/requirements.lock pyproject.toml -o build/requirements-dev.lock
	printf '%s\n' $(BENCH) | $(COMPILE) -c build/requirements.lock - -o build/requirements-bench.lock
	for lock in requirements.lock requirements-dev.lock requirements-bench.lock; do $(WITHOUT_TORCH) build/$$lock > $$lock; done

clean:  ## remove .venv and caches; data, models and metrics stay
	rm -rf $(VENV) $(VENV)-bench build src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.runtime: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m $(INSTALL) -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/python -m $(INSTALL) -r requirements-dev.lock
	touch $@

$(VENV)-bench/.done: requirements-bench.lock
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/python -m $(INSTALL) -r requirements-bench.lock
	$(VENV)-bench/bin/python -m pip install -q --disable-pip-version-check $(TORCH)
	touch $@
