# make demo   make a small labelled set of videos, shard it, train on it, evaluate, make pages to open; a few minutes on two cores
# make test   the test suite in two processes, about seven minutes on two cores; TESTS='-m "not slow" tests' takes less
# make test-all  the same with the tests that take minutes each
# make chaos  kill building and training fifty times and see that nothing is lost; about ten minutes on two cores
# make check  format, lint, types and tests: everything that a change must pass
# make docs   these pages and the Python reference as a site with search: build/site/index.html
# Each of them first makes .venv with the versions of constraints.txt. A GPU is used where there is one.

PYTHON ?= python3
VENV ?= .venv
DALI ?= cuda13
DEMO ?= demo
DEMO_VIDEOS ?= 40
DEMO_STEPS ?= 600
TESTS ?= -m "not long" tests
JOBS ?= 2
KILLS ?= 50

PY = $(VENV)/bin/python
PYTEST = $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0
READY = $(VENV)/.ready

.PHONY: types demo test test-all chaos check format docs env clean-demo

env: $(READY)

$(READY): constraints.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is `$(PYTHON) -V 2>&1`: try make PYTHON=python3.11"; exit 1; }
	@echo "== environment: $(VENV), several minutes the first time"
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) 2>/dev/null; } || \
	  { test "`id -u`" = 0 && apt-get -qq update && apt-get -qq install -y python3-venv >/dev/null && rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || \
	  { echo "python3 -m venv does not work here: sudo apt-get install python3-venv"; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(DALI),dev]"
	@touch $@

demo: $(READY)
	@echo "== 1/5 videos: eight classes that differ only by how their shapes move"
	$(PY) tools/make_demo_videos.py --out $(DEMO)/videos --videos-per-class $(DEMO_VIDEOS)
	@echo "== 2/5 shards: whole scenes are held out for testing"
	$(PY) tools/make_shards.py folder --raw $(DEMO)/videos --out $(DEMO)/shards --name demo \
	  --group-pattern '^(scene[0-9]+)_' --test-fraction 0.25
	$(PY) tools/check_shards.py $(DEMO)/shards
	@echo "== 3/5 training: a narrow Res3D; no flips, for a flip turns left into right"
	$(PY) train/main.py --data $(DEMO)/shards --preset tiny --no-flip --steps $(DEMO_STEPS) --out $(DEMO)/run
	@echo "== 4/5 evaluation: ten clips of each held-out video"
	$(PY) tools/evaluate.py --checkpoint $(DEMO)/run/latest.pt --data $(DEMO)/shards --json $(DEMO)/run/scores.json
	@echo "== 5/5 pages for a browser, and a clip before and after augmentation"
	$(PY) tools/report.py data $(DEMO)/shards --out $(DEMO)/data.html
	$(PY) tools/report.py run $(DEMO)/run --out $(DEMO)/run.html
	$(PY) tools/play.py $(DEMO)/shards --random --run $(DEMO)/run --out $(DEMO)/clip.gif
	@echo "== the result"
	@$(PY) -c 'import json; r = json.load(open("$(DEMO)/run/scores.json")); \
	  print("clip@1 {clip_at_1:.1%}  video@1 {video_at_1:.1%}  chance {chance:.1%}".format(**r))'
	@echo "open        $(abspath $(DEMO))/run.html      how the training went"
	@echo "            $(abspath $(DEMO))/data.html     what was trained on"
	@echo "            $(abspath $(DEMO))/clip.gif      what the network sees"
	@echo "shards      $(DEMO)/shards"
	@echo "checkpoint  $(DEMO)/run/latest.pt"
	@echo "logs        $(DEMO)/run/metrics.jsonl and TensorBoard files beside it"

test: $(READY)
	$(PYTEST) $(TESTS)

test-all: $(READY)
	$(PYTEST) --timeout 1800 tests

chaos: $(READY)
	$(PY) -m tests.chaos --kills $(KILLS)

check: $(READY) types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PYTEST) $(TESTS)

format: $(READY)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(READY) types
	@mkdir -p build/pages/shards
	@ln -sfn ../../../shards/README.md build/pages/shards/
	@ln -sfn ../../README.md ../../CONTRIBUTING.md ../../CHANGELOG.md ../../docs build/pages/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml
	@echo "build/site/index.html; with search: $(PY) -m http.server --bind 127.0.0.1 --directory build/site"

# The checkout under its installed name, for tools that read packages without importing them.
types:
	@mkdir -p build/types/res3d_video && ln -sfn ../../../pipeline ../../../train ../../../tools build/types/res3d_video

clean-demo:
	rm -rf $(DEMO)
