# Everything a newcomer needs: `make demo` to see it, `make test` to trust it.
# Unix only (on Windows: see CONTRIBUTING.md, the same two pip lines).

VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.set-up
# The first interpreter that is new enough and can make environments; `make PYTHON=... setup` overrides.
PYTHONS := python3.11 python3.12 python3.13 python3 python
PYTHON ?= $(shell for p in $(PYTHONS); do \
	"$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$p"; break; }; done)

# A window without a screen, on a bare Debian or Ubuntu.
DEBIAN_PACKAGES := fonts-dejavu-core libdbus-1-3 libegl1 libfontconfig1 libgl1 libgl1-mesa-dri \
	libglib2.0-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 \
	libxcb-render-util0 libxcb-shape0 libxcb-xkb1 libxkbcommon-x11-0 xauth xvfb

# On Linux without a display: does a command that opens windows need Xvfb?
HEADLESS := $(shell [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] && echo yes)
XVFB_RUN := $(if $(HEADLESS),xvfb-run -a -s "-screen 0 1600x1000x24")

.DEFAULT_GOAL := help
.PHONY: help setup system need-xvfb demo test check format screenshots results paper-table cross-validate clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: system $(STAMP) ## .venv with everything, at the versions of constraints.txt

# pip has --group since 25.1. A pip that fails leaves no stamp, so the next call tries again.
# The version that pip notes down is the one in __init__.py.
$(STAMP): pyproject.toml constraints.txt src/napari_diffseg/__init__.py
	@[ -n "$(PYTHON)" ] || { echo "No Python >= 3.11 with venv found (Debian: apt-get install python3 python3-venv)." >&2; exit 1; }
	@[ -x $(PY) ] || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing napari-diffseg with napari and torch into $(VENV) (some minutes the first time) ..."
	@$(PY) -m pip install -qq --upgrade "pip>=25.1"
	@$(PY) -m pip install -qq -c constraints.txt -e ".[training]" --group dev
	@touch $@

# Installs what is missing when that is possible (root on Debian), or else says how, and goes on.
system:
	@command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0; \
	missing=; for p in $(DEBIAN_PACKAGES); do \
		dpkg-query -W -f '$${Status}\n' $$p $${p}t64 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
		echo "Installing Debian packages:$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	else \
		echo "For windows (and the tests) these packages are missing; run once:"; \
		echo "  sudo apt-get install -y --no-install-recommends$$missing"; \
	fi

# Without Xvfb Qt aborts the whole process with no word about the reason.
need-xvfb: system
	@[ -z "$(HEADLESS)" ] || command -v xvfb-run >/dev/null || { \
		echo "There is no display, and Xvfb is missing: install it (Debian: xvfb xauth, Fedora: xorg-x11-server-Xvfb, Arch: xorg-server-xvfb)." >&2; exit 1; }

demo: setup need-xvfb ## napari with the sample case and the widget (without a display: build/demo.png)
ifeq ($(HEADLESS),yes)
	@mkdir -p build
	@$(XVFB_RUN) $(PY) -m napari_diffseg.demo --screenshot build/demo.png
	@echo "There is no display, so napari ran in a virtual one. What it showed: $(CURDIR)/build/demo.png"
else
	@$(PY) -m napari_diffseg.demo
endif

test: setup need-xvfb ## all tests (ARGS="-k name" to choose)
	@$(PY) -m pytest -q $(ARGS)

check: $(STAMP) ## lint, format, types, import directions, spelling
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet || { echo "Not formatted: run 'make format'." >&2; exit 1; }
	@$(VENV)/bin/mypy --no-error-summary
	@out=$$($(VENV)/bin/lint-imports 2>&1) || { echo "$$out"; exit 1; }
	@$(VENV)/bin/codespell
	@echo "ruff, mypy, import-linter, codespell: clean"

format: $(STAMP) ## sort imports, format, mend what ruff can mend
	@$(VENV)/bin/ruff check --quiet --fix-only
	@$(VENV)/bin/ruff format --quiet

screenshots: setup need-xvfb ## docs/images, made anew by driving a real window
	@$(XVFB_RUN) $(PY) scripts/make_screenshots.py docs/images

results: $(STAMP) ## docs/results*.md and their figures, made anew from the numbers in docs/results*/data
	@for page in docs/results*.md; do $(PY) -m training.report "$${page%.md}/data" --out "$$page" || exit 1; done

# SPLIT=file: who is trained on; without it a split is made. It goes on after an interruption.
BUDGET ?= 2h
WORK ?= runs/$@
paper-table: $(STAMP) ## train, evaluate and compare all systems of the paper's table (CASES=folder BUDGET=2h)
	@[ -n "$(CASES)" ] || { echo "Say where the labelled cases are: make paper-table CASES=folder [BUDGET=2h] [SPLIT=file] [WORK=folder]" >&2; exit 1; }
	@$(PY) -m training.paper_table "$(CASES)" --work "$(WORK)" --budget "$(BUDGET)" $(if $(SPLIT),--split "$(SPLIT)") $(ARGS)

cross-validate: $(STAMP) ## the bundled model's networks trained anew for each of 5 folds of patients (CASES=folder BUDGET=2h)
	@[ -n "$(CASES)" ] || { echo "Say where the labelled cases are: make cross-validate CASES=folder [BUDGET=2h] [SPLIT=file] [WORK=folder]" >&2; exit 1; }
	@$(PY) -m training.cross_validate "$(CASES)" --work "$(WORK)" --budget "$(BUDGET)" $(if $(SPLIT),--split "$(SPLIT)") $(ARGS)

clean: ## remove builds and caches (the environment stays)
	rm -rf build dist .coverage htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests training -name __pycache__ -type d -prune -exec rm -rf {} +
