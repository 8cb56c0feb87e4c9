# Virtual environments: .venv serves and holds no PyTorch, .venv-dev tests, trains and lints; .venv-kserve holds KServe's
# client, whose gRPC stubs cannot be in one process with Triton's.
PYTHON ?= python3
ARGS ?=
SERVE := .venv/.complete
DEV := .venv-dev/.complete
KSERVE := .venv-kserve/.complete
# ONNX Runtime's official builds report to Microsoft unless this is set.
export ORT_DISABLE_TELEMETRY ?= 1

.PHONY: help serve test lint train train-real folds train-cifar10 report report-cifar10 bench bench-explain bench-protocols bench-early-exit bench-limits bench-requests bench-bulk compare chaos fleet panels loadtest fuzz check-sizes explain-quality image image-cuda samples screenshots lock clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(SERVE)  ## Install, import the shipped models and serve on http://127.0.0.1:3000
	@exec .venv/bin/vitrine serve

test: $(DEV) $(KSERVE)  ## Install and run the whole suite (ARGS="-k name" for a part)
	@.venv-dev/bin/python -m pytest $(ARGS)

lint: $(DEV)  ## Check style and types
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy

train: $(DEV)  ## Train kidney-stone on phantoms from scratch, or go on where it was interrupted (hours on a CPU)
	.venv-dev/bin/python -m training.kidney_stone.train $(ARGS)

train-real: $(DEV)  ## Train kidney-stone on with real slices, after make folds (ARGS="--data DIR --start-from WEIGHTS")
	.venv-dev/bin/python -m training.kidney_stone.finetune $(ARGS)

folds: $(DEV)  ## Cross-validate that in three folds by study, to calibrate on (the same ARGS)
	.venv-dev/bin/python -m training.kidney_stone.folds $(ARGS)

train-cifar10: $(DEV)  ## Train cifar10 on the pictures in ARGS="--data DIR" (hours on a CPU; docs/models.md)
	.venv-dev/bin/python -m training.cifar10.train $(ARGS)

report: $(DEV)  ## Measure the shipped kidney-stone weights on held-out phantoms (and, with ARGS="--data DIR --boxed DIR", on real slices)
	.venv-dev/bin/python -m training.kidney_stone.report $(ARGS)

report-cifar10: $(DEV)  ## Measure the cifar10 weights on the test pictures in ARGS="--data DIR"
	.venv-dev/bin/python -m training.cifar10.report $(ARGS)

bench: $(DEV)  ## Images a second, start-up and memory, beside the raw loop in the same run
	for name in kidney-stone churn machine-anomaly; do .venv-dev/bin/vitrine models import $$name; done
	.venv-dev/bin/python -m loadtests.bench $(ARGS)

bench-explain: $(DEV)  ## What an explanation costs beside a prediction
	.venv-dev/bin/vitrine models import kidney-stone
	.venv-dev/bin/python -m loadtests.explain $(ARGS)

bench-protocols: $(DEV)  ## HTTP and gRPC beside each other, at 1, 16 and 64 clients
	for name in kidney-stone churn; do .venv-dev/bin/vitrine models import $$name; done
	.venv-dev/bin/python -m loadtests.protocols $(ARGS)

bench-early-exit: export BENTOML_HOME = $(CURDIR)/runs/early-exit/bentoml
bench-early-exit: $(DEV)  ## kidney-stone with its early exit, beside without
	for variant in early-exit fp32; do .venv-dev/bin/vitrine models import kidney-stone --variant $$variant; done
	.venv-dev/bin/python -m loadtests.early_exit $(ARGS)

bench-limits: $(DEV)  ## What unfinished uploads and silent connections do to a server
	.venv-dev/bin/vitrine models import kidney-stone
	.venv-dev/bin/python -m loadtests.limits $(ARGS)

bench-requests: $(DEV)  ## What a cheap request costs the server, here and, with ARGS="--against DIR", in another source folder
	.venv-dev/bin/python -m loadtests.request_cost $(ARGS)

bench-bulk: $(DEV)  ## Bulk scoring beside a raw loop, its memory, one and two Ray nodes (ARGS="--count 500" for less)
	for name in kidney-stone churn; do .venv-dev/bin/vitrine models import $$name; done
	.venv-dev/bin/python -m loadtests.bulk $(ARGS)

compare: $(DEV)  ## The same work on Vitrine, its peers and a plain loop; installs the peers (an hour)
	.venv-dev/bin/python -m loadtests.compare $(ARGS)

chaos: $(DEV)  ## Overload, kills, a drain and a soak, on Vitrine and its peers (25 minutes)
	.venv-dev/bin/python -m loadtests.chaos $(ARGS)

panels: $(DEV)  ## Draw two panels of the dashboard for the docs, from a real Prometheus under a minute of load
	.venv-dev/bin/vitrine models import kidney-stone
	.venv-dev/bin/python -m loadtests.panels $(ARGS)

fleet: $(DEV)  ## Three replicas behind HAProxy, killed, stopped, cut off, slowed and replaced (10 minutes, as root)
	.venv-dev/bin/python -m loadtests.fleet $(ARGS)
	$(if $(ARGS),,.venv-dev/bin/python -m loadtests.fleet.capacity)

loadtest: $(DEV)  ## Two minutes of load on a fresh server, with limits, a report and plots
	for name in kidney-stone churn; do .venv-dev/bin/vitrine models import $$name; done
	.venv-dev/bin/python -m loadtests.load $(ARGS)

fuzz: $(DEV)  ## 20,000 hostile pictures and a minute of hostile clients, with another client beside them (20 minutes)
	.venv-dev/bin/vitrine models import kidney-stone
	.venv-dev/bin/python -m loadtests.fuzz $(ARGS)

check-sizes: $(DEV)  ## The sizes of 10,000 pictures and mutants as they are read here and by Pillow
	.venv-dev/bin/python -m loadtests.sizes $(ARGS)

explain-quality: $(DEV)  ## Pointing game, curves and random weights of the explanations; writes them beside the card
	.venv-dev/bin/vitrine explain quality kidney-stone $(ARGS)

samples: $(DEV)  ## Draw the sample pictures of the web page: phantoms, and four drawings
	.venv-dev/bin/python -m training.page_samples $(ARGS)

screenshots: $(DEV)  ## Take the README's pictures of the web page, with Chromium (ARGS="--url URL" of a running server)
	.venv-dev/bin/python -m tests.api.static.screenshots $(ARGS)

image: $(SERVE)  ## Pack the installed models into an image without PyTorch, by docker, podman or buildah
	.venv/bin/python -m deploy.container.image $(ARGS)

image-cuda: $(SERVE)  ## The same with PyTorch for NVIDIA GPUs (6 GB, and 40 GB of disk to build it)
	.venv/bin/python -m deploy.container.image --flavour cuda $(ARGS)

lock: $(DEV)  ## Pin the requirements anew
	.venv-dev/bin/uv pip compile $(LOCK) --extra dev -o requirements/dev.txt pyproject.toml requirements/torch.in
	.venv-dev/bin/uv pip compile $(LOCK) -c requirements/dev.txt -o requirements/serve.txt pyproject.toml
	.venv-dev/bin/uv pip compile $(LOCK) -c requirements/dev.txt --extra torch -o requirements/cuda.txt pyproject.toml requirements/torch.in
	.venv-dev/bin/uv pip compile $(LOCK) -c requirements/dev.txt --extra convert -o requirements/convert.txt pyproject.toml
	.venv-dev/bin/uv pip compile $(LOCK) -c requirements/dev.txt --extra scale -o requirements/scale.txt pyproject.toml
	.venv-dev/bin/uv pip compile $(LOCK) -o requirements/sbom.txt requirements/sbom.in
	.venv-dev/bin/uv pip compile $(LOCK) -o requirements/kserve.txt requirements/kserve.in
	for peer in requirements/peers/*.in; do .venv-dev/bin/uv pip compile $(LOCK) -o $${peer%.in}.txt $$peer || exit 1; done
LOCK := -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

clean:  ## Remove the virtual environments and every cache (not the model store)
	rm -rf .venv .venv-dev .venv-kserve .venv-peers .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE): requirements/serve.txt pyproject.toml
	@$(call install,.venv,serve,Installing what serving needs into .venv: about 0.5 GB and a minute.)

$(DEV): requirements/dev.txt pyproject.toml
	@$(call install,.venv-dev,dev,Installing what tests and training need into .venv-dev: about 6 GB and a few minutes.)

$(KSERVE): requirements/kserve.txt
	@$(call install,.venv-kserve,kserve,Installing KServe's client into .venv-kserve: about 0.4 GB.)

# The stamp is written last, so that an install that was interrupted starts again from an empty environment.
define install
command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON); install Python 3.11 or newer, or name one with PYTHON=…"; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V), Vitrine needs 3.11 or newer: name one with PYTHON=python3.11"; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it, on Debian and Ubuntu with: apt-get install python3-venv"; exit 1; }; \
echo "$(3)"; \
$(PYTHON) -m venv --clear $(1) && \
$(1)/bin/python -m pip install -q --disable-pip-version-check --progress-bar on --require-hashes -r requirements/$(2).txt && \
{ [ $(1) = .venv-kserve ] || $(1)/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .; } && \
touch $(1)/.complete
endef
