# Two targets matter: `make run` shows Selfware finishing a real job on this machine; `make test` proves it.

PY := .venv/bin/python
CTL := .venv/bin/selfwarectl
SELFWARE_HOME ?= $(CURDIR)/.selfware
export SELFWARE_HOME
# In a plain chroot the kernel makes no sandboxes: root gives the command a root of its own. Elsewhere this does nothing.
ROOTED := python3 -I daemons/selfware_tool/real_root.py

.PHONY: help run up test check bench prove deb deb-model lock protos clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

run: ## install everything, run the demo job on the embedded model to its end, print an honest table
	@packaging/bootstrap runtime
	@$(CTL) models fetch --quiet-if-present
	@$(ROOTED) $(CTL) demo

up: ## the same stack, left running until Ctrl-C
	@packaging/bootstrap runtime
	@$(CTL) models fetch --quiet-if-present
	@$(ROOTED) $(CTL) up

check: ## static checks only: ruff, mypy --strict
	@packaging/bootstrap dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .
	@$(PY) -m mypy

test: ## everything: static checks, unit, process, a seeded sample of each proof
	@packaging/bootstrap dev
	@$(CTL) models fetch smollm2-135m --quiet-if-present
	@$(ROOTED) $(PY) -m pytest $(PYTEST_ARGS)

bench: ## BENCH=checkpoint|system|journal|recovery|startup|idle|sandbox|langgraph: JSON lines on stdout
	@packaging/bootstrap bench
	@$(ROOTED) $(PY) -m tests.bench.$(or $(BENCH),$(error say which: make bench BENCH=journal))

prove: ## PROOF=kills|effects|demo|systemd_kills|calls|runaways|powercut|crashmatrix|bitflips|cold|rewind|week [SEED=n ROUNDS=n]: JSON lines on stdout
	@packaging/bootstrap dev
	@$(ROOTED) $(PY) -m tests.prove.$(or $(PROOF),$(error say which: make prove PROOF=kills)) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS))

deb: ## dist/selfware_<version>_<arch>.deb, checked by lintian; docs/installing.md
	@packaging/build-deb --lint

deb-model: ## MODEL=smollm2-135m: the package that carries that model
	@packaging/build-deb --lint model $(or $(MODEL),$(error say which: make deb-model MODEL=smollm2-135m))

lock: ## write packaging/locks from pyproject.toml (needs uv)
	@packaging/relock

protos: ## write selfware_common/rpc from protos/
	@packaging/bootstrap dev
	@$(PY) protos/generate.py

clean: ## remove what the other targets made, but never a session's state
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist build
