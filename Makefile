# make demo    a whole session on this machine, explained      make test    the whole suite
# make check   types and style                                 make bench   ratios, measured in one run
# make test-fast   the suite without database, readers, services and other users
# make charts  the charts of docs/understand/speed.md, from its tables
# make pictures   every picture of the documents as PNG, in build/pictures (needs npm and Chromium)
# make reference  the command reference and the man page, from the commands' own help
# make applet  the card applet in Java, built and tested; with JAVACARD_SDK=path also as a CAP file
# make conformance CARD=pcsc:READER CARD_MAY_BE_ERASED=yes     a real card against docs/understand/apdu.md
PY := .venv/bin/python
BRIDGE := card_applet/bridge/target/card-bridge.jar

.PHONY: setup readers demo test test-fast check bench charts reference pictures applet conformance clean

setup:
	@scripts/setup

readers:
	@scripts/setup readers

demo: setup
	@scripts/demo

test-fast: setup
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -q \
	    -m "not database and not reader and not service and not applet and not users and not slow"

# LEAVE_OUT=marker leaves those tests out, which somebody else then has to run. One process more than there are
# cores: many tests wait for something.
LEAVE_OUT =
PROCESSES = $(shell expr $$(nproc) + 1)

test: readers $(BRIDGE)
	@$(PY) -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(if $(LEAVE_OUT),-m 'not $(LEAVE_OUT)')

check: setup
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

bench: readers
	@$(PY) -m benchmarks
	@$(PY) -m benchmarks.apdu
	@$(PY) -m benchmarks.service
	@echo 'Put what is new into docs/understand/speed.md, then: make charts'

charts: setup
	@$(PY) -c 'import matplotlib' 2>/dev/null || $(PY) -m pip install --quiet -c constraints.txt matplotlib
	@$(PY) -m benchmarks.charts

reference: setup
	@$(PY) scripts/reference.py

pictures:
	@scripts/pictures

applet:
	@scripts/setup applet
	@$(MAKE) --no-print-directory -C card_applet

# Whatever the applet's own tests read, too.
$(BRIDGE): $(shell find card_applet -name target -prune -o \( -name '*.java' -o -name pom.xml \) -print) \
    $(wildcard tests/vectors/apdu/*.json tests/vectors/apdu/*/*.json) docs/understand/apdu.md docs/understand/applet.md
	@scripts/setup applet
	@$(MAKE) --no-print-directory -C card_applet JAVACARD_SDK=
	@touch $@

conformance: readers
	@CARD='$(CARD)' CARD_MAY_BE_ERASED='$(CARD_MAY_BE_ERASED)' scripts/conformance

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis hsm_signer.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
