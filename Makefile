# Everything runs from a virtual environment that is made on first use.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo real serve test image lint audit bench gpu-check demo-pair lock clean

setup: $(VENV)/.runtime  ## Install what serving, replaying and reporting need

demo: setup  ## Serve the demo pair, replay its tasks, print the table
	@$(BIN)/python -m demo.run

real: $(VENV)/.dev  ## Quantize a real model and judge the result (MODEL names another than the package's); ARGS as demo.real --help
	@$(if $(MODEL),HF_HUB_OFFLINE=0) $(BIN)/python -m demo.real $(if $(MODEL),--model $(MODEL)) $(ARGS)

serve: setup  ## Serve the demo pair until Ctrl-C; ARGS goes to the server
	$(BIN)/python -m server --demo $(ARGS)

test: $(VENV)/.dev  ## Run all tests; ARGS goes to pytest
	$(BIN)/python -m pytest $(ARGS)

image:  ## Build the image; BASE and IMAGE as in the Dockerfile's first lines, ARGS goes to docker build
	docker build --tag $(or $(IMAGE),qconf-server) $(if $(BASE),--build-arg BASE=$(BASE)) \
	  --build-arg REVISION=$(shell git rev-parse HEAD) $(ARGS) .

lint: $(VENV)/.dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck --external-sources .ci/run .ci/image requirements/system.sh deploy/ci/*.sh deploy/shadow/*.sh

audit: $(VENV)/.dev  ## Look the locked packages up among known vulnerabilities (asks PyPI)
	for lock in cpu dev image server; do \
	  $(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement requirements/$$lock.txt; done

bench: $(VENV)/.dev  ## Measure throughput beside plain vLLM (a quarter of an hour on two cores); ARGS goes to the benchmark
	$(BIN)/python -m benchmarks.throughput $(ARGS)

# Without network, so in the environment that is there, not in one with vLLM's CPU build.
gpu-check:  ## Check everything on this machine's GPU with PYTHON (half an hour); ARGS goes to the check
	$(PYTHON) -m benchmarks.acceptance $(ARGS)

demo-pair: $(VENV)/.dev  ## Make the demo pair and its tasks again (about 20 minutes on two cores)
	$(BIN)/python -m demo

$(VENV)/.runtime: requirements/cpu.txt requirements/install.py pyproject.toml
	@$(PYTHON) requirements/install.py $(VENV) requirements/cpu.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	@$(PYTHON) requirements/install.py $(VENV) requirements/dev.txt
	@touch $@

# pip knows no overrides, which leave out packages that another's metadata asks for; uv does.
LOCK := uv pip compile --override requirements/not-needed.txt --python-version 3.11 \
  --python-platform x86_64-manylinux_2_31 --find-links $(or $(WHEELS),.) --generate-hashes --no-emit-package torch \
  --no-header --no-annotate --quiet
lock:  ## Resolve the requirements anew (needs uv; WHEELS names a folder with the CPU build of torch)
	$(LOCK) pyproject.toml --extra cpu --extra bench --extra report --extra quantize --extra ray --extra real --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra cpu --extra bench --extra report -c requirements/dev.txt -o requirements/cpu.txt
	$(LOCK) pyproject.toml --extra cpu -c requirements/dev.txt -o requirements/image.txt
	$(LOCK) pyproject.toml --extra server -c requirements/dev.txt -o requirements/server.txt
	$(LOCK) --group pyproject.toml:bill -o requirements/bill.txt
	# On other architectures these are neither needed nor there.
	sed -i -E 's/^((atheris|intel-[a-z-]+)==[0-9.]+) /\1 ; platform_machine == "x86_64" /' requirements/*.txt

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
