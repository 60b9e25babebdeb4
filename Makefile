# Everything runs in .venv at the root, which the first target makes and the others reuse.
PYTHON ?= python3
BIN := .venv/bin
BUNDLE := bundles/film_swinunetr
DEMO := runs/demo/$(notdir $(BUNDLE))

.DEFAULT_GOAL := help
.PHONY: studies help setup lint test coverage test-label test-all bundles export verify serve demo demo-score demo-train bench bench-models clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')"

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import sys; v = sys.version_info[:2]; v in ((3, 11), (3, 12)) or sys.exit("Python 3.11 or 3.12 is needed, \
	and .venv has %d.%d: rm -r .venv, then make setup PYTHON=python3.12" % v)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,dicom,label,onnx,dev]'
	touch $@

setup: .venv/ready ## make .venv with the tested versions (about 4.5 GB, a few minutes)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each: twice as fast on two cores as one of two threads. tests/conftest.py orders the files.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	-m "not slow and not gpu and not browser and not pacs"

test: setup ## the tests of every change
	$(PYTEST)

coverage: setup ## the same tests, and the share of custom/ that they run: at least 90 %
	mkdir -p runs/coverage
	$(PYTEST) --cov --cov-report term-missing --cov-fail-under 90

# The PACS, browser and DICOM validator that the tests of the app drive; without them those tests are skipped.
LABEL_PACKAGES := orthanc orthanc-dicomweb chromium dicom3tools dcmtk plastimatch
# Reads our RTSTRUCT; alone, for what it asks for brings another OpenCV and a display's libraries.
LABEL_WHEELS := rt-utils==1.2.7 opencv-python-headless==4.11.0.86
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

test-label: setup ## the tests of the MONAI Label app and of DICOM, with a real PACS and browser (Debian packages are installed)
	dpkg -s $(LABEL_PACKAGES) > /dev/null 2>&1 || { $(AS_ROOT) apt-get update && \
		$(AS_ROOT) apt-get install -y --no-install-recommends $(LABEL_PACKAGES); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(LABEL_WHEELS)
	$(BIN)/python -m pytest tests/monailabel_app tests/imageio/test_dicom_seg.py tests/imageio/test_rtstruct.py \
		tests/bundles/test_dicom_series.py tests/imageio/test_readers.py

test-all: setup ## every test, the slow and the GPU ones too
	$(BIN)/python -m pytest

# STUDIES=<folder of NIfTI images, or http://127.0.0.1:8042/dicom-web>
MODELS ?= film_swinunetr
PORT ?= 8000
studies: # before anything is installed
	@test -n "$(STUDIES)" || { echo "STUDIES must name a folder of NIfTI images or a DICOMweb address:" \
		"make serve STUDIES=/data/my_ct"; exit 2; }
	@case "$(STUDIES)" in http://*|https://*) ;; *) test -d "$(STUDIES)" || { echo "There is no folder $(STUDIES)."; exit 2; } ;; esac

serve: studies setup ## serve the bundles MODELS to 3D Slicer and OHIF on STUDIES, for this computer only
	$(BIN)/python -m monailabel.main start_server --app monailabel_app --studies "$(STUDIES)" \
		--conf models "$(MODELS)" --host 127.0.0.1 --port $(PORT)

BUNDLES := film_swinunetr film2_swinunetr swinunetr unetr universal_swinunetr
# URL=<where the exported folders will lie>: of weights over 25 MB
export: setup ## export all bundles to dist/, as folders and zips that run without this repository
	for name in $(BUNDLES); do $(BIN)/python scripts/export_bundle.py bundles/$$name --overwrite True $(if $(URL),--url $(URL)/$$name) \
		|| exit 1; done

# Only bundles with weights can be verified.
verify: setup ## export the bundle BUNDLE, check it as the model zoo does, and use its zip as a stranger would: some ten minutes
	rm -rf runs/verify/dist
	$(BIN)/python scripts/export_bundle.py $(BUNDLE) --output_dir runs/verify/dist $(if $(URL),--url $(URL))
	$(BIN)/python scripts/verify_bundle.py runs/verify/dist/$(notdir $(BUNDLE))_v*.zip --trip True

bundles: setup ## format the configs, and render those of bundles that have an overlay.json
	$(BIN)/python scripts/render_bundles.py

# The demonstration: twenty organs of synthetic phantoms at 6 mm, a network small enough for two cores and for git.
# The fifty test phantoms are frozen: seeds 9000-9049. Training draws others. BUNDLE=bundles/film2_swinunetr: the other network.
RUN := $(BIN)/python -m monai.bundle run
PHANTOMS := $(BIN)/python scripts/make_phantoms.py --spacing 3
ORGANS := "spleen, both kidneys, gall bladder, esophagus, liver, stomach, aorta, postcava, pancreas, duodenum, both lungs, \
	colon, intestine, rectum, bladder, prostate, both femoral heads"
DEMO_WEIGHTS := $(BUNDLE)/models/demo.safetensors
EVALUATE := $(RUN) evaluating --config_file "['$(BUNDLE)/configs/train.json','$(BUNDLE)/configs/evaluate.json']"
SCORE := $(EVALUATE) --dataset_dir data/phantoms --output_dir $(DEMO)/eval \
	--validate::prompt_texts "['canonical','raw','held out']"

data/demo/dataset.json: .venv/ready custom/tools/phantoms/scene.json
	$(PHANTOMS) --output_dir data/demo --classes $(ORGANS) --training 0 --validation 0 --test 3 --seed 9000 --overwrite

data/phantoms/dataset.json: .venv/ready custom/tools/phantoms/scene.json
	$(PHANTOMS) --output_dir data/phantoms --classes $(ORGANS) --training 0 --validation 0 --test 50 --seed 9000 --overwrite

data/demo_train/dataset.json: .venv/ready custom/tools/phantoms/scene.json
	$(PHANTOMS) --output_dir data/demo_train --classes $(ORGANS) --training 600 --validation 8 --test 0 --seed 1000 --overwrite

demo: setup data/demo/dataset.json ## segment an unseen phantom from a prompt, then score the shipped weights on three
	$(RUN) inference --config_file $(BUNDLE)/configs/inference.json --image data/demo/images/phantom_0000.nii.gz \
		--prompt "liver, spleen and both kidneys" --weights $(DEMO_WEIGHTS) --output_dir $(DEMO)/out --overwrite True
	@echo "The picture: $(DEMO)/out/phantom_0000/preview.png"
	$(EVALUATE) --weights $(DEMO_WEIGHTS) --dataset_dir data/demo --output_dir $(DEMO)/scores
	@echo "The picture: $(DEMO)/out/phantom_0000/preview.png   The scores: $(DEMO)/scores/scores.csv"

demo-score: setup data/phantoms/dataset.json ## score the shipped weights on fifty unseen phantoms, in three wordings
	$(SCORE) --weights $(DEMO_WEIGHTS)

demo-train: setup data/phantoms/dataset.json data/demo_train/dataset.json ## train the shipped weights: 5 hours, goes on where it stopped
	$(RUN) training --config_file $(BUNDLE)/configs/train.json --dataset_dir data/demo_train --text_encoder minilm \
		--feature_size 12 --network_def::window_size 4 --spacing "[6,6,6]" --roi_size "[64,64,32]" --train::samples_per_volume 1 \
		--epoch_length 250 --max_epochs 100 --lr_scheduler::warmup_epochs 2 --val_interval 4 --learning_rate 0.003 \
		--loss::bce_weight 3 --loss::smooth_nr 1 --loss::bce_balance 0.5 --train::crop_datasets "['*']" --train::crop_ratios "[]" --loss::dice_of_empty False \
		--ckpt_dir $(DEMO)/models --output_dir $(DEMO)/train
	$(SCORE) --weights $(DEMO)/models/model.safetensors
	$(BIN)/python scripts/benchmark.py baseline --training_dir data/demo_train --test_dir data/phantoms \
		--output $(DEMO)/eval/baseline.csv
	$(BIN)/python scripts/ship_weights.py --weights $(DEMO)/models/model.safetensors --output $(DEMO_WEIGHTS) \
		--dataset_dir data/demo_train --scores $(DEMO)/eval/scores.json --command "make demo-train BUNDLE=$(BUNDLE)"

BENCH_PHANTOMS := $(PHANTOMS) --classes "liver, spleen, both kidneys, aorta, bladder, lungs" --overwrite

data/bench_test/dataset.json: .venv/ready custom/tools/phantoms/scene.json
	$(BENCH_PHANTOMS) --output_dir data/bench_test --training 0 --validation 0 --test 10 --seed 9000

data/bench_train/dataset.json: .venv/ready custom/tools/phantoms/scene.json
	$(BENCH_PHANTOMS) --output_dir data/bench_train --training 150 --validation 4 --test 0 --seed 1000

# CLIP_BANK=<prompt bank of CLIP's class sentences> adds a row; scripts/convert_weights.py makes one.
bench-models: setup data/bench_test/dataset.json data/bench_train/dataset.json ## compare five networks and kinds of text: 2-3 hours, goes on where it stopped
	$(BIN)/python scripts/benchmark.py networks --training_dir data/bench_train --test_dir data/bench_test \
		$(if $(CLIP_BANK),--clip_bank $(CLIP_BANK))

# CT=<a NIfTI file>
bench: setup ## measure inference beside the references' flow: about an hour, goes on where it stopped
	@test -n "$(CT)" || { echo "CT must name a CT: make bench CT=/data/ct.nii.gz"; exit 2; }
	$(BIN)/python scripts/benchmark.py inference "$(CT)"

clean: ## remove what the targets made, .venv included
	rm -rf .venv data/phantoms data/demo data/demo_train data/bench_train data/bench_test runs/demo runs/bench runs/benchmark runs/verify runs/coverage .mypy_cache .ruff_cache .pytest_cache *.egg-info
