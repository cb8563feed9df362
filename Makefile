# What a person types.  All of it works on a fresh machine with Python 3.11 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: run test check bench firmware clean

run: $(VENV)/.run                 ## the bundled firmware under the console
	@$(BIN)/snooze $(ARGS)

test: $(VENV)/.test               ## every test; what needs a part that is missing is skipped
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev               ## the quick one: lint, types, fast tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

bench: $(VENV)/.run               ## figures beside qemu-system-x86_64's, in the same run
	$(BIN)/python -m tests.bench $(ARGS)

firmware/snooze.rom: firmware/snooze.asm $(wildcard firmware/*.inc)
	cd firmware && nasm -f bin -o snooze.rom snooze.asm

emu/layout.inc: emu/layout.py
	$(PYTHON) -m emu.layout >$@

emu/native.bin: emu/native.asm emu/layout.inc
	cd emu && nasm -f bin -o native.bin native.asm

firmware/multiboot.bin: firmware/multiboot.asm firmware/multiboot.inc
	cd firmware && nasm -f bin -o multiboot.bin multiboot.asm

firmware: firmware/snooze.rom firmware/multiboot.bin emu/native.bin    ## build what is assembled anew (needs nasm)

clean:
	rm -rf $(VENV) build *.egg-info

# A path entry instead of an import hook: the hook costs each start 20 ms.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
       --config-settings editable_mode=compat

# One virtual environment; each stamp is a set of extras installed in it.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python setup.cfg pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) -e '.[test,dev]'
	touch $@
