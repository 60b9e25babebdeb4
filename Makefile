# Everything runs in .venv at the root, which the first target makes and the others reuse.
PYTHON ?= python3
BIN := .venv/bin
BUNDLE := bundles/film_swinunetr
DEMO := runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup lint test test-all demo clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')"

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,dev]'
	touch $@

setup: .venv/ready ## make .venv with the tested versions (about 2 GB, a few minutes)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup ## the tests of every change
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: setup ## every test, the slow and the GPU ones too
	$(BIN)/python -m pytest

# Small enough for two cores: seven classes, 6 mm voxels, windows of 64x64x32, feature size 12.
DEMO_KNOBS := --text_encoder minilm --feature_size 12 --window_size 4 --spacing "[6,6,6]" --roi_size "[64,64,32]" \
	--samples_per_volume 1 --iterations_per_epoch 50 --max_epochs 8 --val_interval 4 \
	--learning_rate 0.003 --bce_weight 5 --dice_of_empty False
RUN := $(BIN)/python -m monai.bundle run

demo: setup ## phantoms, five minutes of training, evaluation, a segmentation from a prompt
	$(BIN)/python scripts/make_phantoms.py --output_dir data/phantoms --training 12 --validation 1 --test 2 --spacing 6 \
		--classes "liver, spleen, both kidneys, lungs and bladder"
	$(RUN) training --config_file $(BUNDLE)/configs/train.json --dataset_dir data/phantoms $(DEMO_KNOBS) \
		--ckpt_dir $(DEMO)/models --output_dir $(DEMO)/eval
	$(RUN) evaluating --config_file "['$(BUNDLE)/configs/train.json','$(BUNDLE)/configs/evaluate.json']" \
		--dataset_dir data/phantoms --weights $(DEMO)/models/model.safetensors --output_dir $(DEMO)/eval
	$(RUN) inference --config_file $(BUNDLE)/configs/inference.json --image data/phantoms/images/phantom_0013.nii.gz \
		--prompt "liver and both lungs" --weights $(DEMO)/models/model.safetensors --output_dir $(DEMO)/out
	@echo "The picture: $(DEMO)/out/phantom_0013/preview.png   The scores: $(DEMO)/eval/scores.csv"

clean: ## remove what the targets made, .venv included
	rm -rf .venv data/phantoms $(DEMO) .mypy_cache .ruff_cache .pytest_cache *.egg-info
