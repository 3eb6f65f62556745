# make demo | make test | make test-slow | make test-gpu | make lint | make protos
SHELL := /bin/sh
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-gpu lint protos clean
demo: $(STAMP)
	@$(PY) -m experiments.train --preset=cpu,tiny,demo --out=runs/demo --overwrite

test: $(STAMP)
	@$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-gpu: $(STAMP)
	@$(PY) -m pytest -m gpu

test-slow: $(STAMP)
	@$(PY) -m pytest -m "slow and not gpu"

lint: $(STAMP)
	@$(VENV)/bin/ruff check .

PROTO := covr/prior/v1/prior.proto
KEPT := protos/covr/prior/v1/prior.binpb
protos: $(STAMP)
	@$(PY) -m grpc_tools.protoc -Iprotos --include_source_info --descriptor_set_out=$(KEPT).new protos/$(PROTO)
	@$(PY) tools/contract.py $(KEPT) $(KEPT).new || { rm -f $(KEPT).new; exit 1; }
	@$(PY) -m grpc_tools.protoc -Iprotos --python_out=protos --pyi_out=protos --grpc_python_out=protos protos/$(PROTO)

$(STAMP): pyproject.toml constraints.txt tools/setup.sh
	@VENV=$(VENV) sh tools/setup.sh

clean:
	rm -rf $(VENV) build dist ./*.egg-info
