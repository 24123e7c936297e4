# Everything runs from here. `make run` and `make test` need only Python >= 3.11 and make. They create .venv and install
# what locks/ pins, by version and hash. PYTHON=/path/to/python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --require-hashes --only-binary :all:
UV_VERSION := 0.13.9
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-annotate --no-header --quiet
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' qrusty_trio/__init__.py)
JUNIT := build/junit.xml
# ARGS="-n 0" runs them one by one, in the process of pytest itself.
SIDE_BY_SIDE := -n logical --maxprocesses 4
COVERAGE := build/coverage
SOURCES := qrusty_trio tests bench fuzz mutants traceability smoke webui_dev docker release integrations

NODE_MODULES := webui_dev/node_modules
NODE_RED := integrations/node-red/node_modules
SCHEMATHESIS := build/schemathesis

.DEFAULT_GOAL := help
.PHONY: help run test test-long test-stress crash-test lint format bench bench-core bench-depth bench-pressure bench-beside bench-peers simulate mutants soak fuzz fuzz-parser requirements-server traceability traceability-report coverage coverage-missing coverage-summary-json coverage-html coverage-clean lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1	/p' Makefile | expand -t 24

run: export BIND_ADDR ?= 127.0.0.1:6784
run: export DATA_PATH ?= ./data
run: $(VENV)/.installed ## Serve on 127.0.0.1:6784, with messages in ./data (BIND_ADDR and DATA_PATH override)
	@exec $(BIN)/python -m qrusty_trio

test: $(VENV)/.installed-dev ## Run every test, on all processors
	@rm -f $(JUNIT)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --junit-xml=$(JUNIT) $(ARGS)

test-long: $(VENV)/.installed-dev ## Run the broker against its model, 20,000 times
	QRUSTY_MODEL_RUNS=20000 $(BIN)/python -m pytest --timeout 0 tests/core/test_model.py

test-stress: $(VENV)/.installed-dev ## Run every test five times (TIMES) while all processors are kept busy
	TIMES=$(or $(TIMES),5) bash tests/stress.sh $(BIN)/python $(SIDE_BY_SIDE) $(ARGS)

crash-test: $(VENV)/.installed-dev ## Kill -9 and restart the server: 500 rounds under load, 50 during compaction
	QRUSTY_CRASH_ROUNDS=500 $(BIN)/python -m pytest --timeout 0 tests/crash
	QRUSTY_CRASH_ROUNDS=50 $(BIN)/python -m pytest --timeout 0 tests/faults/test_kill_compaction.py

lint: $(VENV)/.installed-dev ## Check style, types and layers
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict $(SOURCES)
	$(BIN)/lint-imports
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory lint-webui; \
		else echo 'left out: the types of webui/src, as there is no Node'; fi

.PHONY: lint-webui test-browser test-node-red test-schemas screenshots vendor

lint-webui: $(NODE_MODULES)/.installed ## Check the types of the web UI (needs Node)
	$(NODE_MODULES)/.bin/tsc -p webui_dev

test-browser: $(VENV)/.installed-browser ## Run the web UI's tests in Chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pytest $(or $(ARGS),tests/browser)

test-node-red: $(VENV)/.installed-dev $(NODE_RED)/.installed ## Try the flow in a real Node-RED from npm (needs Node and npm)
	$(BIN)/python -m pytest tests/integrations/test_node_red.py $(ARGS)

test-schemas: $(VENV)/.installed-dev $(SCHEMATHESIS)/.installed ## Try the server with what its OpenAPI document allows and forbids
	$(BIN)/python -m pytest tests/schemas $(ARGS)

screenshots: $(VENV)/.installed-browser ## Draw the screens of the web UI anew in docs/images
	$(BIN)/python -m tests.browser.screenshots

vendor: $(NODE_MODULES)/.installed $(VENV)/.made ## Copy what the web UI uses of other projects from the npm registry
	$(BIN)/python webui_dev/vendor.py

format: $(VENV)/.installed-dev ## Format the source
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: smoke-test smoke-test-memory
smoke-test: $(VENV)/.installed-dev ## Hold a real server under load to its promises, for 30 s (SMOKE_ARGS="--duration 120 --port 19000")
	$(BIN)/python smoke/smoke_test.py $(SMOKE_ARGS)

smoke-test-memory: $(VENV)/.installed-dev ## The same with messages in memory
	$(BIN)/python smoke/smoke_test.py --storage memory $(SMOKE_ARGS)

.PHONY: all build docs doc show-docs machete audit sbom release-check
all: lint machete test traceability build docs ## Check, test and build everything

build: $(VENV)/.installed-release ## Build wheel and sdist in dist/, install the wheel in a clean environment, and start it
	$(BIN)/python -m release.packages

docs: $(VENV)/.installed-docs ## Write the documentation site to dist/docs, and check every link
	$(BIN)/python -m release.documents

.PHONY: reference
reference: $(VENV)/.installed-dev ## Write the generated parts of docs/reference anew
	$(BIN)/python -m release.reference

doc: docs

show-docs: $(VENV)/.installed-docs ## Serve the same on http://127.0.0.1:8000 (PORT)
	$(BIN)/python -m release.documents --show --port $(or $(PORT),8000)

machete: $(VENV)/.installed-release ## Find unused, missing and undeclared dependencies
	$(BIN)/deptry .
	$(BIN)/deptry qrusty_trio --ignore DEP002

audit: $(VENV)/.installed-release ## Look up known vulnerabilities of what is pinned; left out, with a reason, without an index that knows them
	@$(BIN)/python -m release.audit

sbom: $(VENV)/.installed-release ## Write what the server is made of to dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.cdx.json locks/serve.txt

release-check: lint machete test traceability build sbom ## Everything that must hold before a release
	$(BIN)/python -m release.check

.PHONY: image build-qrusty
image: ## Build the container image with buildah (BASE=another base, IMAGE=another name)
	docker/image.sh $(or $(IMAGE),qrusty-trio) $(BASE)

build-qrusty: ## Build the image for amd64 and arm64 with docker buildx (BUILDX_ARGS="--push --tag ...")
	docker buildx build --platform linux/amd64,linux/arm64 --file docker/Dockerfile --tag $(or $(IMAGE),qrusty-trio) \
		--build-arg VERSION="$(VERSION)" --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg CREATED="$$(date --utc +%Y-%m-%dT%H:%M:%SZ)" $(BUILDX_ARGS) .

bench: $(VENV)/.installed-bench ## Measure over sockets, beside the installed peers
	$(BIN)/python -m bench.run $(ARGS)
	$(BIN)/python -m bench.latency

bench-core: $(VENV)/.installed-bench ## Measure the operation table in one thread
	$(BIN)/python -m bench.core $(ARGS)

bench-depth: $(VENV)/.installed-bench ## Measure queues of ten million messages
	$(BIN)/python -m bench.depth $(ARGS)

bench-pressure: $(VENV)/.installed-dev ## Measure a server at its memory limit
	$(BIN)/python -m bench.pressure $(ARGS)

bench-beside: $(VENV)/.installed-dev ## Measure this checkout beside another one (OTHER), in which `make test` was run
	$(BIN)/python -m bench.beside $(OTHER) $(ARGS)

bench-peers: ## Install the peers of `make bench` (needs root, cargo and some time)
	bash bench/peers.sh

simulate: $(VENV)/.installed-dev ## Run 20,000 simulated worlds with faults; SEED=n runs one and prints its trace
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds 0 $(or $(SEEDS),20000))

mutants: $(VENV)/.installed-dev ## Change the code in 100 places (SAMPLE, SEED, PATHS), one at a time, and list what no test notices
	$(BIN)/python -m mutants.run --sample $(or $(SAMPLE),100) --seed $(or $(SEED),0) $(PATHS)

soak: $(VENV)/.installed ## Let queues, consumers and connections come and go for 40 minutes (SOAK_SECONDS)
	$(BIN)/python -m bench.soak --seconds $(or $(SOAK_SECONDS),2400) $(SEED:%=--seed %)

fuzz: $(VENV)/.installed ## Fuzz the whole server over sockets for 10 minutes (FUZZ_SECONDS, TLS=1, SEED or REPLAY)
	$(BIN)/python -m fuzz.server --seconds $(or $(FUZZ_SECONDS),600) $(TLS:%=--tls) $(SEED:%=--seed %) $(REPLAY:%=--replay %)

fuzz-parser: $(VENV)/.installed-fuzz ## Fuzz the connection code in one process for 10 minutes (FUZZ_SECONDS)
	$(BIN)/python fuzz/fuzz_fast_path.py -max_total_time=$(or $(FUZZ_SECONDS),600)

requirements-server: $(VENV)/.installed-dev ## Show the requirements in a browser, on port 17867 (PORT)
	$(BIN)/doorstop-server --launch --port $(or $(PORT),17867)

traceability: $(VENV)/.installed-dev ## Print what code and which tests stand for each requirement, after `make test`
	$(BIN)/doorstop --quiet --no-reformat --error-all
	$(BIN)/python -m traceability --junit $(JUNIT)

traceability-report: $(VENV)/.installed-dev ## Write the same to docs/traceability_report.md, with links
	$(BIN)/python -m traceability --junit $(JUNIT) --write docs/traceability_report.md

coverage: $(VENV)/.installed-dev coverage-clean ## Run every test, and count the lines and branches that run, in servers that are started, too
	mkdir -p $(COVERAGE)
	@rm -f $(JUNIT)
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) --junit-xml=$(JUNIT) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet
	$(BIN)/python -m tests.covered $(COVERAGE)/coverage.json

coverage-missing: $(VENV)/.installed-dev ## List the lines and branches that did not run, after `make coverage`
	$(BIN)/coverage report --show-missing

coverage-summary-json: $(VENV)/.installed-dev ## Print the sums as JSON, after `make coverage`
	@$(BIN)/python -m tests.covered --json $(COVERAGE)/coverage.json

coverage-html: $(VENV)/.installed-dev ## Write them line by line to build/coverage/html, after `make coverage`
	$(BIN)/coverage html --quiet

coverage-clean: ## Remove what `make coverage` left
	rm -rf $(COVERAGE)

blocking: $(VENV)/.installed-dev ## Write the blocking client anew, after a change of qrusty_trio/client/http.py or caller.py
	$(BIN)/python -m release.blocking_client

lock: $(VENV)/.made ## Pin the newest versions that fit in locks/
	$(PIP) install --quiet uv==$(UV_VERSION)
	rm -f locks/*.txt
	$(LOCK) pyproject.toml --output-file locks/serve.txt
	$(LOCK) pyproject.toml --group build --constraint locks/serve.txt --output-file locks/run.txt
	$(LOCK) pyproject.toml --extra otel --group build --group test --group lint --group requirements --group coverage --constraint locks/run.txt --output-file locks/dev.txt
	$(LOCK) --group fuzz --constraint locks/dev.txt --output-file locks/fuzz.txt
	$(LOCK) --group bench --constraint locks/dev.txt --output-file locks/bench.txt
	$(LOCK) --group release --constraint locks/dev.txt --output-file locks/release.txt
	$(LOCK) --group browser --constraint locks/dev.txt --output-file locks/browser.txt
	$(LOCK) --group schemas --constraint locks/dev.txt --output-file locks/schemas.txt
	$(LOCK) --group docs --constraint locks/dev.txt --output-file locks/docs.txt

clean: ## Remove everything make created, .venv included; keep ./data
	rm -rf $(VENV) $(NODE_MODULES) $(NODE_RED) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the lock that was installed. So an environment that is up to date is left alone.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is not Python 3.11 or newer: give one, make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
		{ echo 'This Python cannot make virtual environments: install its venv package (Debian: python3-venv).' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made locks/run.txt pyproject.toml
	$(INSTALL) -r locks/run.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed locks/dev.txt
	$(INSTALL) -r locks/dev.txt
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev locks/fuzz.txt
	$(INSTALL) -r locks/fuzz.txt
	@touch $@

$(VENV)/.installed-release: $(VENV)/.installed-dev locks/release.txt
	$(INSTALL) -r locks/release.txt
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed locks/bench.txt
	$(INSTALL) -r locks/bench.txt
	@touch $@

$(VENV)/.installed-browser: $(VENV)/.installed-dev locks/browser.txt
	$(INSTALL) -r locks/browser.txt
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed-dev locks/docs.txt
	$(INSTALL) -r locks/docs.txt
	@touch $@

# A plugin of pytest that no other test is to load, so it has an environment of its own.
$(SCHEMATHESIS)/.installed: $(VENV)/.made locks/schemas.txt
	$(PYTHON) -m venv --clear $(SCHEMATHESIS)
	$(SCHEMATHESIS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r locks/schemas.txt
	@touch $@

$(NODE_MODULES)/.installed: webui_dev/package-lock.json
	cd webui_dev && npm ci --silent
	@touch $@

$(NODE_RED)/.installed: integrations/node-red/package-lock.json
	cd integrations/node-red && npm ci --silent
	@touch $@
