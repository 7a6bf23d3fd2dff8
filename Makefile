# make demo and make test are all a newcomer needs. Each creates .venv with pinned versions first.
# Without an NVIDIA GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu spares gigabytes of CUDA.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml constraints.txt
PYRIGHT := $(VENV)/bin/pyright --project $(VENV)/types/micro_rm --pythonpath $(VENV)/bin/python
PACKAGE := __init__.py pipeline.py api cache commands common configs display embed heads run_dir serve

.PHONY: demo test lint types audit unit long docs stress clean

demo: $(VENV)/.demo
	$(VENV)/bin/micro-rm demo

# The types take one core for a minute; the rest of the checks is done beside them.
test: $(VENV)/.dev
	$(MAKE) --jobs=3 lint types audit
	$(MAKE) unit

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The checkout is the package, whatever its folder is called: pyright sees it under its own name.
types: $(VENV)/types/micro_rm
	$(PYRIGHT) $(addprefix $(VENV)/types/micro_rm/,$(PACKAGE))

# Known vulnerabilities of the pinned versions; a version that nobody could be asked about is named.
audit: $(VENV)/.dev
	$(VENV)/bin/python tools/audit.py

# Most of the time is compilation, which a process does on one core.
unit: $(VENV)/.dev
	$(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

# The rest: types of tests and benchmarks, matrices, kills, whole runs, presets, the documentation.
long: $(VENV)/types/micro_rm docs
	$(PYRIGHT)
	$(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder -m long

# The documentation as HTML under build/docs; a warning or a reference that leads nowhere fails.
docs: $(VENV)/.dev
	$(VENV)/bin/sphinx-build -W --keep-going -n -q -d build/doctrees docs build/docs

# Kills, failing disks, company and damaged files, at full length; STRESS='--scale 0.1' is shorter.
# Then the service: kills under feedback, and requests made from its own description.
stress: $(VENV)/.dev
	$(VENV)/bin/python -m micro_rm.tools.stress $(STRESS)
	$(VENV)/bin/python -m micro_rm.tools.serve.kills --kills 50
	$(VENV)/bin/python -m micro_rm.tools.serve.schema_check --examples 60

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/types/micro_rm: $(VENV)/.dev
	@mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $@

$(VENV)/.demo: $(VENV)/bin/python $(INPUTS)
	$(PIP) $(INDEX) -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(INPUTS)
	$(PIP) $(INDEX) -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
