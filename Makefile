# Everything runs in .venv, which `setup` makes once, and again when pyproject.toml changes. Modules are compiled when
# they are first imported, not when they are installed: most never are.
# Another interpreter: make setup PYTHON=python3.12

PYTHON ?= python3
# Large pages for what is allocated. Some virtual machines serve small ones so slowly (25 x for allocating alone) that
# training takes three times as long without; elsewhere, and where the C library is another, it changes nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# Some machines forbid what was compiled to be kept (containers, often). Then each process compiles all anew: the command
# line takes 17 s to start where it takes 7, and tests start it a hundred times.
export PYTHONDONTWRITEBYTECODE :=
# Mirrored digits are not digits, and scenes are crowded already: no flip, no mosaic.
DEMO_OPTIONS ?= --epochs 16 --imgsz 256 --batch 8 augment.flip=0 augment.mosaic=0 augment.scale=0.3
# Without scripts that need arguments, and a module that one of them imports.
BENCH ?= $(filter-out $(patsubst %,benchmarks/%.py,loss_compare aspect_ratio tiles faults nearest ray_predict),$(sort $(wildcard benchmarks/*.py)))

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

# What the tests of the HTML report need.
BROWSER ?= /usr/bin/chromium /usr/bin/chromedriver

.PHONY: setup demo test check slow bench browser docs extras

setup: $(STAMP)

$(STAMP): pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: $(PYTHON) is not Python 3.11 or newer; install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; }; \
	fi
	@if command -v uv >/dev/null 2>&1; then \
	  if [ ! -x $(BIN)/python ]; then uv venv --python "$$(command -v $(PYTHON))" $(VENV) || exit 1; fi; \
	  uv pip install --python $(BIN)/python -e ".[dev]"; \
	else \
	  if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv $(VENV) || { \
	      rm -rf $(VENV); \
	      echo "make: $(PYTHON) cannot make environments; install its venv package (Debian, Ubuntu: apt install python3-venv), or uv" >&2; \
	      exit 1; }; \
	  fi; \
	  $(BIN)/python -m pip install --disable-pip-version-check --no-compile -e ".[dev]"; \
	fi
	@touch $@

# Trains on the embedded data, says the figures and where everything is, and draws predictions.
demo: setup
	@set -e; \
	out=runs/demo; number=2; \
	while [ -e "$$out" ]; do out="runs/demo-$$number"; number=$$((number + 1)); done; \
	$(BIN)/alignrank train --model yolov8-n --data digits $(DEMO_OPTIONS) --out "$$out"; \
	digits="$$($(BIN)/python -c 'from alignrank.data.digits import ensure; print(ensure())')"; \
	$(BIN)/alignrank predict --weights "$$out" "$$digits"/images/val_*0.jpg --out "$$out/predictions"; \
	echo "predicted $$out/predictions"

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# Installs Chromium and its driver on Debian, where that can be done; never fails. Its tests are skipped without them.
browser:
	@found() { for file in $(BROWSER); do [ -x "$$file" ] || return 1; done; }; \
	found && exit 0; \
	as_root=env; [ "$$(id -u)" = 0 ] || as_root="sudo -n env"; \
	apt() { $$as_root DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -qq -o Acquire::Retries=1 "$$@" >/dev/null 2>&1; }; \
	if command -v apt-get >/dev/null; then apt update; apt install -y --no-install-recommends chromium chromium-driver; fi; \
	found || echo "make: no browser could be installed; its tests are skipped until there are $(BROWSER) (Debian: apt-get install chromium chromium-driver)" >&2

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: setup
	$(BIN)/python -m pytest -m slow

# Hours on a small machine. One script alone: make bench BENCH=benchmarks/accuracy.py
bench: setup
	@set -e; for script in $(BENCH); do echo "$$script"; $(BIN)/python "$$script"; done

# The site, in build/site; a link that leads nowhere, or a notebook that fails, ends it. Needs the extra docs.
docs: setup
	@$(BIN)/python -c 'import furo, myst_parser, nbclient, ipykernel' 2>/dev/null || { \
	  echo "make: the extra docs is not installed; run: $(BIN)/python -m pip install -e '.[docs]' (or uv pip install)" >&2; \
	  exit 1; }
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c docs -d build/doctrees . build/site
	@echo "built build/site/index.html"

# Each extra alone in a clean environment, below build/extras: its tests run there, and are skipped without it.
extras: setup
	$(BIN)/python .ci/extras.py $(EXTRAS)
