# Needs make, bash and Python 3.11 or newer, nothing installed by hand. `make help` lists the targets.
SHELL := bash

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# what else pip is told; `make lowest` gives it
VERSIONS :=
PROFILE := $(or $(VIDLIB_PROFILE),standard)
PYTHONS := $(or $(PYTHON),python3.11 python3 python3.12 python3.13)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# the stamp holds the folder it was made in: in a copied or moved folder the scripts in .venv, which
# name their interpreter by its whole path, would run the old folder's
MOVED := $(shell [ ! -f $(STAMP) ] || [ "$$(cat $(STAMP))" = "$$(pwd -P)" ] || echo yes)

.PHONY: help venv course test lowest notebooks demo book bench soak clean FORCE
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  PROFILE=quick|standard|full sets the size of course and notebooks (now: $(PROFILE));"
	@echo "  PYTHON=... names the Python that .venv is made with; VIDLIB_DATA=... moves the data folder"

venv: $(STAMP) ## build .venv and install everything into it

course: $(STAMP) ## draw the data, pre-train, train, predict; a second run reuses what is done
	@VIDLIB_PROFILE="$(PROFILE)" $(BIN)/python -m vidlib course

test: $(STAMP) ## lint, format, unit tests, every notebook and solution in the quick profile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	VIDLIB_PROFILE=quick $(BIN)/python -m pytest --durations=15

lowest: ## the same in .venv-lowest, with the oldest versions that pyproject.toml allows
	@mkdir -p build
	@sed -nE 's/^ *"([[:alnum:]_-]+)[>=]=([0-9.]+).*/\1==\2/p' pyproject.toml > build/lowest.txt
	@$(MAKE) VENV=.venv-lowest PYTHON="$(or $(PYTHON),python3.11)" VERSIONS="-c build/lowest.txt" test

notebooks: $(STAMP) ## run the notebooks afresh in order and store their outputs (for authors)
	@for notebook in $(sort $(wildcard notebooks/*.ipynb)) $(sort $(wildcard notebooks/solutions/*.ipynb)); do \
	  echo "$$notebook"; \
	  VIDLIB_PROFILE="$(PROFILE)" $(BIN)/python -m nbconvert --to notebook --execute --inplace \
	    --log-level=ERROR --ExecutePreprocessor.timeout=3600 \
	    --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.store_widget_state=False "$$notebook" || exit 1; \
	done
	$(BIN)/python -m pytest tests/test_notebooks.py -k stored

demo: $(STAMP) ## the prediction panel as a page of its own, in your browser
	$(BIN)/voila docs/panel.ipynb

book: $(STAMP) ## the course as a static book, build/book/index.html, from the stored notebooks
	@rm -rf build/pages build/book && mkdir -p build/pages/benchmarks build/pages/data/raw_videos
	@cp README.md build/pages/index.md
	@cp -R docs notebooks build/pages && cp benchmarks/*.md benchmarks/growth.png build/pages/benchmarks
	@cp data/raw_videos/README.md build/pages/data/raw_videos
	$(BIN)/sphinx-build -q -W --keep-going -c docs build/pages build/book
	@echo "open build/book/index.html"

bench: $(STAMP) ## run the benchmarks (benchmarks/README.md says what they time)
	@for script in $(sort $(wildcard benchmarks/bench_*.py)); do $(BIN)/python "$$script" || exit 1; done

soak: $(STAMP) ## the long forms of the tests of which `make test` runs a twentieth
	VIDLIB_PROFILE=quick VIDLIB_SOAK=1 $(BIN)/python -m pytest -m soak --durations=15

clean: ## remove .venv, .venv-lowest and caches; clips, weights and results stay
	rm -rf $(VENV) .venv-lowest build *.egg-info .pytest_cache .ruff_cache .hypothesis
	rm -rf data/cache/frames data/cache/features
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

$(STAMP): pyproject.toml $(if $(MOVED),FORCE)
	@$(if $(MOVED),echo "this folder was copied or moved: building $(VENV) again"; rm -rf $(VENV),:)
	@if ! $(BIN)/python -c 'import pip; $(NEW_ENOUGH)' 2>/dev/null; then \
	  for python in $(PYTHONS); do \
	    if "$$python" -c '$(NEW_ENOUGH)' 2>/dev/null; then break; fi; python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer among: $(PYTHONS). Install Python 3.11 (python.org, your" \
	      "system's packages, or conda: see README.md), or name one: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  echo "building $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "$$python cannot build virtual environments: on Debian and Ubuntu install the package" \
	      "python3-venv (or python3.11-venv), then run make again" >&2; exit 1; }; \
	fi
	@echo "installing packages into $(VENV): 2 to 15 minutes the first time, mostly torch (2 to 6 GB)"
	@set -o pipefail; PIP_DISABLE_PIP_VERSION_CHECK=1 \
	  $(BIN)/python -m pip install --progress-bar off -e '.[test]' $(VERSIONS) 2>&1 | tee $(VENV)/pip.log \
	  | while read -r line; do set -- $$line; case $$line in \
	      *"("[0-9][0-9]*" MB)"|*"("[0-9]*" GB)") wheel=$${*: -3:1}; echo "  $${wheel%%-*} $${*: -2}";; \
	      "Installing collected"*) echo "  all downloaded; unpacking";; \
	    esac; done || { \
	    grep -v '^WARNING' $(VENV)/pip.log | tail -n 20 >&2; \
	    echo "the installation stopped ($(VENV)/pip.log has it whole): mend what pip says above" \
	      "(network, disk space), then run the same make command again" >&2; exit 1; }
	@pwd -P > $(STAMP)

FORCE:
