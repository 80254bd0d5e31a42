# Every target makes the environment it needs from python3 alone: with uv where it is present, with pip where not.

PYTHON := .venv/bin/python
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all attack check format bench study-demo study-photos study-methods study-coverage study-audit study-pairs sweep-backbones pairs settings docs method-pictures dist check-dist clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: .venv/.runtime  ## teacher, student alone and distilled student on drawn scenes (about 10 minutes)
	.venv/bin/detdistill demo

# The processes that tests start read the bytecode that the first of them wrote.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/.dev  ## the tests, in four to five minutes on two cores
	$(PYTEST) -m "not slow"

test-all: .venv/.dev  ## all tests, with all of their drawn cases
	DETDISTILL_THOROUGH=1 $(PYTEST)

attack: .venv/.dev  ## what is promised about files and runs, attacked: 1,000 kills and more (hours; goes on where it was stopped)
	PYTHONPATH=.:tests $(PYTHON) -m benchmarks.attack

check: .venv/.dev  ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/.dev  ## bring the style in order
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

METHODS := hint,frs,ssim,attention,fgd,aid(frs),ikd(frs)
OTHERS := mgd,pkd,cwd,crosskd,boxes
STEP := $(PYTHON) -m detdistill.bench step
BENCH := runs/bench
BRIEFLY := train.steps=60 train.batch_size=8 data.image.short_side=96 data.image.long_side=160 report=false

bench: .venv/.dev $(BENCH)/fcos/results.json $(BENCH)/gfl/results.json $(BENCH)/faster_rcnn/results.json  ## every ratio of time with its goal, measured anew, in one table (about 40 minutes)
	$(STEP) --teacher fcos/small --student fcos/tiny --methods "$(METHODS),$(OTHERS)" --batch-size 4 --image-px 128 --json $(BENCH)/step_small.json
	$(STEP) --methods "$(METHODS)" --json $(BENCH)/step.json
	$(STEP) --teacher gfl/small --student gfl/tiny --methods ld --batch-size 4 --image-px 128 --json $(BENCH)/step_gfl.json
	$(PYTHON) -m detdistill.bench overhead --image-px 128 --json $(BENCH)/overhead.json
	$(PYTHON) benchmarks/frozen_teacher.py --json $(BENCH)/frozen_teacher.json
	$(PYTHON) benchmarks/ssim.py --json $(BENCH)/ssim.json
	$(PYTHON) benchmarks/student_step.py --json $(BENCH)/student_step.json
	$(PYTHON) benchmarks/loader.py --data $(BENCH)/scenes:160x240 --json $(BENCH)/loader.json
	$(PYTHON) benchmarks/evaluation.py --run $(BENCH)/fcos $(BENCH)/gfl $(BENCH)/faster_rcnn --data $(BENCH)/scenes --json $(BENCH)/evaluation.json
	$(PYTHON) benchmarks/coco_figures.py --json $(BENCH)/coco_figures.json
	$(PYTHON) benchmarks/start_up.py --teacher $(BENCH)/fcos --data $(BENCH)/scenes --settings $(BRIEFLY) teacher.cache_folder=$(BENCH)/finds --json $(BENCH)/start_up.json
	$(PYTHON) benchmarks/teacher_cache.py --runs $(BENCH)/cache --images 64 --json $(BENCH)/teacher_cache.json
	$(PYTHON) benchmarks/cost_growth.py --json $(BENCH)/cost_growth.json --picture $(BENCH)/cost_growth.png
	$(PYTHON) benchmarks/bench_table.py $(BENCH) benchmarks/results --json $(BENCH)/table/table.json

$(BENCH)/scenes/scenes.json: .venv/.runtime
	test -f $@ || $(PYTHON) -m detdistill data make scenes --out $(BENCH)/scenes --train 200 --val 1

$(BENCH)/%/results.json: $(BENCH)/scenes/scenes.json
	test -f $@ || $(PYTHON) -m detdistill train --detector $*/small --data $(BENCH)/scenes --out $(BENCH)/$* $(BRIEFLY)

# The studies go on where they were stopped. Those on photographs need DETDISTILL_TEST_DATA, the folder of data sets.

study-demo: .venv/.runtime  ## the demo over three seeds (about half an hour)
	$(PYTHON) benchmarks/demo_study.py --seeds 0 1 2 --json benchmarks/results/demo_study.json

study-photos: .venv/.dev  ## hint, frs and ssim on photographs (about an hour)
	$(PYTHON) benchmarks/imagenet_backbones.py --out runs/backbones
	$(PYTHON) benchmarks/real_data.py --data $(DETDISTILL_TEST_DATA) --json benchmarks/results/real_data.json

study-methods: .venv/.dev  ## every method on drawn scenes and photographs (about three hours on one core)
	$(PYTHON) benchmarks/imagenet_backbones.py --out runs/backbones
	$(PYTHON) benchmarks/methods_study.py --data $(DETDISTILL_TEST_DATA)

study-coverage: .venv/.dev  ## how often the intervals of a gain hold the true one, and what they cost (about 20 minutes)
	$(PYTHON) benchmarks/coverage_study.py --json benchmarks/results/coverage.json
	$(PYTHON) benchmarks/bootstrap.py --json benchmarks/results/bootstrap.json

study-audit: .venv/.dev  ## how well `data audit` finds label errors that were planted (about half an hour)
	$(PYTHON) benchmarks/audit_study.py --data $(DETDISTILL_TEST_DATA) --json benchmarks/results/audit_study.json

study-pairs: .venv/.dev  ## pairs that have no family in common, on drawn scenes (hours on two cores)
	$(PYTHON) benchmarks/pair_study.py --out runs/pairs

sweep-backbones: .venv/.runtime  ## every pyramid backbone of timm's: built, trained for a step, asked once (about an hour)
	$(PYTHON) benchmarks/backbones_sweep.py --json benchmarks/results/backbones.json --again traceback "not run" shapes

pairs: .venv/.runtime  ## the page of who can teach whom, docs/pairs.md
	.venv/bin/detdistill methods --markdown > docs/pairs.md.partial && mv docs/pairs.md.partial docs/pairs.md

settings: .venv/.runtime  ## the page of all settings, docs/settings.md
	.venv/bin/detdistill settings --markdown > docs/settings.md.partial && mv docs/settings.md.partial docs/settings.md

docs: .venv/.dev  ## the documentation site, in build/docs/site
	$(PYTHON) -m docs.tools.staging build/docs
	.venv/bin/zensical build --strict --clean -f build/docs/zensical.toml

method-pictures: .venv/.runtime  ## docs/methods/*.webp, from what `make demo` leaves (some ten minutes)
	$(PYTHON) benchmarks/method_pictures.py --demo runs/demo

dist: build/.tools  ## the source archive and the wheel, which is made of it, in dist/
	rm -rf dist
	build/tools/bin/hatchling build -t sdist -d dist
	build/tools/bin/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

check-dist: dist  ## the wheel, in an environment with nothing else; then exported files without it (minutes, 6 GB in build/)
	rm -rf build/empty
	python3 -m venv build/empty
	build/empty/bin/python -m pip install --disable-pip-version-check -q -c requirements/runtime.txt dist/*.whl
	build/empty/bin/python -I benchmarks/check_dist.py dist/*.whl
	build/empty/bin/python -m pip install --disable-pip-version-check -q -c requirements/dev.txt "$$(echo dist/*.whl)[export]"
	rm -rf build/three
	python3 -m venv build/three
	build/three/bin/python -m pip install --disable-pip-version-check -q -c requirements/dev.txt numpy pillow onnxruntime
	build/empty/bin/python -I benchmarks/check_dist.py dist/*.whl build/three/bin/python

clean:  ## remove the environment and the caches
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(PYTHON):
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "python3 must be Python 3.11 or newer, got $$(python3 --version). Put a newer one first on PATH." >&2; exit 2; }
	if command -v uv >/dev/null; then uv venv --allow-existing --python python3 .venv; else python3 -m venv .venv; fi

# uv leaves bytecode out unless told, which doubles the time of every start where Python may not write it itself.
define install
	if command -v uv >/dev/null; then \
		uv pip install --python $(PYTHON) --compile-bytecode -r $(1) && \
		uv pip install --python $(PYTHON) --no-deps -e .; \
	else \
		$(PYTHON) -m pip install --disable-pip-version-check -r $(1) && \
		$(PYTHON) -m pip install --disable-pip-version-check --no-deps -e .; \
	fi
endef

build/.tools: pyproject.toml
	python3 -m venv build/tools
	build/tools/bin/python -m pip install --disable-pip-version-check -q "hatchling>=1.27"
	touch $@

.venv/.runtime: requirements/runtime.txt | $(PYTHON)
	$(call install,requirements/runtime.txt)
	touch $@

.venv/.dev: requirements/dev.txt | $(PYTHON)
	$(call install,requirements/dev.txt)
	touch .venv/.runtime $@
