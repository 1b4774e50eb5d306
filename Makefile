# Two commands do all: `make demo` and `make test`. Both set up what is missing and reuse what did not change.
SHELL := /bin/sh
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help demo test lint images plugins cluster bench lock clean setup-demo setup-test

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-demo images plugins cluster ## show the main job end to end on a real cluster; KUBECONFIG=… CONTEXT=… another one
	$(PYTHON) tools/demo.py $(if $(CONTEXT),--context '$(CONTEXT)')

test: setup-test lint images plugins cluster ## run every test; PYTEST="tests/telewire -x" just those
	$(PYTHON) tools/run_tests.py $(PYTEST)

lint: .venv/.done ## static checks
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

images: .venv/.done ## build the daemon's and the agent's image
	$(PYTHON) -m devcluster base-image
	docker build -q -t telepresence/agent:$$($(PYTHON) -c 'import telewire; print(telewire.__version__)') -f Dockerfile.agent .
	docker build -q -t telepresence/daemon:$$($(PYTHON) -c 'import telewire; print(telewire.__version__)') -f Dockerfile.daemon .
	@docker image prune -f --filter label=telepresence.io/image >/dev/null

plugins: .venv/.done ## build, install and enable the two Docker plugins
	tools/build-plugin.sh teleroute
	tools/build-plugin.sh telemount

cluster: images ## bring up the development cluster with the sample application, unless KUBECONFIG names one
	$(PYTHON) tools/cluster.py

bench: setup-test images plugins cluster ## print `name value unit peer ratio`, peers measured in the same run
	$(PYTHON) -m bench

lock: .venv/.done ## choose the newest versions that pyproject.toml allows
	$(PYTHON) -m pip install -q uv
	.venv/bin/uv pip compile -q --universal --upgrade --python-version 3.11 --all-extras --no-emit-index-url \
	  --no-emit-find-links --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove all that the set-up keeps: cluster, plugins, images, virtual environment
	-[ ! -x $(PYTHON) ] || $(PYTHON) tools/clean.py
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

setup-demo:
	tools/setup.sh demo
	@$(MAKE) --no-print-directory .venv/.done

setup-test:
	tools/setup.sh test
	@$(MAKE) --no-print-directory .venv/.done

.venv/.done: requirements.lock pyproject.toml
	python3 -m venv .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check -r requirements.lock
	$(PYTHON) -m pip install -q --disable-pip-version-check --no-deps -e .
	touch $@
