# Everything runs from .venv, which is made if it is missing: python3 (3.11 or later) and make are enough.
PYTHON ?= python3
# The versions that `make setup` installs; `CONSTRAINTS=` takes the newest that setup.cfg allows.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: setup demo test proofs combinations check compat constraints tiny-weights measurements standalone faults speed
setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("violet needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check $(addprefix --constraint ,$(CONSTRAINTS)) -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/violet demo

# Every path's time, rate and share of this machine's matrix products: an hour. `make speed ARGS=--quick` takes two minutes.
speed: setup
	$(BIN)/violet speed --json outputs/speed.json $(ARGS)

# The weights that come with the package, about an hour: goes on where it was stopped.
tiny-weights: setup
	$(BIN)/violet pretrain examples/violet-tiny.yaml --resume
	$(BIN)/python tools/ship_weights.py outputs/violet-tiny examples/violet-tiny.yaml

# What docs/results.md says of pre-training (every MVM target, and what each objective is worth) and of the demo. Some
# hours; the last one fails where a median misses its bar.
measurements: setup
	$(BIN)/python measurements/mvm_targets.py --json outputs/mvm_targets.json
	$(BIN)/python measurements/pretraining_value.py
	$(BIN)/python measurements/encoders_from_scratch.py
	$(BIN)/python measurements/unseen_pairs.py --json outputs/unseen_pairs.json

# Checkpoints that carry their code, asked in a fresh virtual environment without this package: a few minutes.
standalone: setup
	$(BIN)/python measurements/standalone.py

# A worker for each core, at most four: each loads torch and transformers, and holds up to 3 GB.
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

# Tests beyond those of every change: two processes fine-tuned, killed and resumed, sharded weights, the goldens'
# captions recomputed, every class compiled and exported.
proofs: setup
	$(BIN)/python -m pytest -m proof

# What docs/reliability.md promises, tried with planted faults: a tenth of the counts, an hour at most; with FULL=1 all of
# them, in as many sittings as it takes (SECONDS= limits one); ONLY= names promises.
faults: export OMP_NUM_THREADS ?= 1
faults: setup
	$(BIN)/python tests/faults/campaign.py $(if $(FULL),--full) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(or $(SECONDS),$(if $(FULL),,3600)),--seconds $(or $(SECONDS),3600))

# Every vision encoder with every task, objective, pipeline and model class, and docs/combinations.md: an hour at most.
combinations: setup
	$(BIN)/python tools/combinations.py

# The whole suite with the lowest releases that setup.cfg allows, with constraints.txt, and with the newest there are:
# three environments and docs/compatibility.md. Half an hour, and some 20 GB.
compat: setup
	$(BIN)/python measurements/compatibility.py

# The newest releases within setup.cfg's range, written down for `make setup`.
constraints: setup
	$(BIN)/uv pip compile setup.cfg --extra dev --universal --python-version 3.11 --no-annotate --upgrade --quiet \
	    --custom-compile-command "make constraints" --output-file constraints.txt

# mypy needs a folder with the package's name above its files: the root is the package, so a link stands in for it.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_words.py
	mkdir -p .venv/types && ln -sfn "$(CURDIR)" .venv/types/violet
	cd .venv/types && MYPYPATH=. ../bin/mypy --config-file violet/pyproject.toml -p violet
	$(BIN)/lint-imports
