# The verbs of this project. `make help` lists them; none has hidden state beyond .venv and certs/.
#
# Each .venv/.with-X is a stamp: the install of that part is done again only when pyproject.toml or the installer changes.
# PYTHON=/path/to/python chooses the interpreter of a new .venv; ARGS="..." is passed on to `run`, `test` and `bench`.

.DEFAULT_GOAL := help
.PHONY: help run test check certs fuzz mutations bench clean

PY := .venv/bin/python
export PYTHON

help: ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

run: .venv/.with-run ## install what is missing, then start a relay on https://localhost:8443 with a playground page
	@exec $(PY) -m relay dev $(ARGS)

test: .venv/.with-test ## run all tests: ARGS="tests/unit -k token" picks some
	@$(PY) -m pytest $(ARGS)

check: .venv/.with-test .venv/.with-lint ## format, lint, types and the floors of the architecture
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo

certs: .venv/.with-run ## make the development CA, certificate and token secret in certs/
	@$(PY) -m relay certs dev

fuzz: .venv/.with-test ## feed every reader of foreign bytes with noise (docs/security.md): ARGS="--inputs 10000000"
	@$(PY) -m tests.fuzz $(ARGS)

mutations: .venv/.with-test ## take out each limit and guard in turn, and show that a test fails (docs/security.md): an hour
	@$(PY) -m tests.mutations $(ARGS)

bench: .venv/.with-test ## measure against a bare C loop and other servers (docs/performance.md): ARGS="--quick"
	@$(PY) -m benchmarks $(ARGS)

clean: ## remove .venv and all caches; certificates stay
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.with-%: pyproject.toml scripts/install.sh
	@sh scripts/install.sh $*
	@touch $@
