# Two commands on a fresh machine (Python >= 3.11 and git):  make demo   and   make test
# Others: make test-slow, make lint, make smoke, make clean. Each makes the virtual environment itself.

PYTHON ?= python3
SECOND ?= $(shell for p in python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python3.12; do \
    $$p -c "" 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
SECOND_VENV ?= $(VENV)-second
TEST ?= -n logical --maxprocesses=4 --dist=loadfile --durations=10
DEMO ?=
SMOKE ?= tests/config_test.py tests/cli_test.py tests/keys_test.py $(addprefix tests/kernels/,$(addsuffix _test.py,\
    conv dsa gradients labels pool statistics taylor))

.PHONY: demo test test-slow lint smoke clean

# The main job: Teddy on 8x8 digits. Huge pages make it a little faster where glibc knows them.
demo: $(VENV)/.installed
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(VENV)/bin/python -m ddjax.launch \
	    --config configs/digits.py $(DEMO)

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest $(TEST)

test-slow: $(VENV)/.installed
	$(VENV)/bin/python -m pytest --durations=10 -m "slow and not torch and not gpu"

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# A small set of the tests on a second Python, where there is one.
smoke:
	@if [ -n "$(SECOND)" ]; then \
	    $(MAKE) --no-print-directory PYTHON=$(SECOND) VENV=$(SECOND_VENV) $(SECOND_VENV)/.installed && \
	    $(SECOND_VENV)/bin/python -m pytest $(TEST) $(SMOKE); \
	else \
	    echo "smoke: no python3.12 here, nothing to do"; \
	fi

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "ddjax needs Python >= 3.11; give one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) $(SECOND_VENV)
