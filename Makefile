# Everything runs in a virtual environment of this folder (.venv/<distribution>) and talks on loopback alone.
# Another interpreter: make demo PYTHON=python3.12    The Kilted wheels: make demo ROS_DISTRO=kilted

SHELL := /bin/bash
.DEFAULT_GOAL := help

# A sourced ROS 2 sets ROS_DISTRO too; one that we have no wheels for does not decide what we install.
ifneq ($(origin ROS_DISTRO),command line)
ROS_DISTRO := $(or $(filter jazzy kilted,$(ROS_DISTRO)),jazzy)
endif
# Not ?=: a variable of this name in somebody's shell must not decide what is made anew or written over.
VENV := .venv/$(ROS_DISTRO)
PY := $(VENV)/bin/python
EPISODES := 6
CHECKPOINT := models/demo
OUT := out/demo

# Packages and libraries of a sourced ROS 2 would come before those of the virtual environment.
ifdef AMENT_PREFIX_PATH
unexport LD_LIBRARY_PATH
endif
unexport PYTHONPATH AMENT_PREFIX_PATH ROS_LOCALHOST_ONLY ROS_STATIC_PEERS ROS_DISCOVERY_SERVER
unexport FASTDDS_BUILTIN_TRANSPORTS

# Loopback, in a domain that other checkouts and other users of this machine are unlikely to share.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_DOMAIN_ID := $(shell printf '%s' "$$(id -u) $(CURDIR)" | cksum | awk '{print 1 + $$1 % 101}')
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
# FastDDS's default transports lose most large images. FastDDS 3 (Kilted) has another name for the profile.
ifeq ($(ROS_DISTRO),jazzy)
export FASTRTPS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds.xml
else
export FASTDDS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds.xml
endif
export RCUTILS_COLORIZED_OUTPUT := 0
export MUJOCO_GL ?= egl
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo test faults lint clean libero

help:
	@echo "make demo    simulated arm, policy and follower as three processes; leaves out/demo/  (EPISODES=6 CHECKPOINT=models/demo)"
	@echo "make test    the test suite  (ROS_DISTRO=jazzy or kilted)"
	@echo "make faults  inject faults into a follower in motion; writes docs/faults.md  (FAULTS=\"pose clock\")"
	@echo "make lint    ruff and mypy: style, imports and types"
	@echo "make setup   only the virtual environment, .venv/$(ROS_DISTRO)  (PYTHON=python3.12 chooses the interpreter)"
	@echo "make libero  the environment of the LIBERO benchmark, .venv/libero  (grids evaluate --benchmark libero_object)"
	@echo "make clean   removes out/, build products and caches; keeps .venv/"
	@echo
	@echo "Everything else: source $(VENV)/bin/activate && grids --help"

setup:
	@requirements/install.sh $(ROS_DISTRO) $(VENV)

demo: setup
	@$(PY) -m grids_ros demo --checkpoint $(CHECKPOINT) --episodes $(EPISODES) --out $(OUT)

# Two workers, one thread each: numerics do not depend on the machine's number of cores.
test: setup
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --max-worker-restart 2 $(PYTEST_ARGS)

# A follower in full motion, a hundred and more faults over real DDS; about twenty minutes. FAULTS="pose clock": of these kinds.
faults: setup
	@cd test && OMP_NUM_THREADS=1 ../$(PY) -m faults $(FAULTS)

lint: setup
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

# MuJoCo 3.3.0 and assets of 340 MiB: an environment of its own, for a process of its own.
libero: setup
	@[ -x .venv/libero/bin/python ] || $(PY) -m venv .venv/libero
	@.venv/libero/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/libero.txt
	@$(PY) -m grids_ros.benchmarks.check libero_object

clean:
	rm -rf out build install log .pytest_cache .hypothesis .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
