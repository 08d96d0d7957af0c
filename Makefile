# The only entry. Every target is a script under scripts/; `make` prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help up status down clean build test lint gen gen-check bench soak crash incident lexicons images

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## start everything on this machine, wait until drained, print what came of it (RELAY=host for a real relay)
	@scripts/up.sh
status: ## what runs and where the backlog stands
	@scripts/status.sh
down: ## stop everything; the data stays
	@scripts/down.sh
clean: ## stop everything and remove its data and bin/
	@scripts/clean.sh
build: ## programs into bin/
	@scripts/build.sh
test: ## all tests of all modules with -race, on servers of their own
	@scripts/test.sh
lint: ## formatting, go vet, golangci-lint with the layer rules
	@scripts/lint.sh
gen: ## regenerate protobuf code, configuration and metrics reference
	@scripts/gen.sh
gen-check: ## fail if what is generated is not up to date
	@scripts/gen-check.sh
bench: ## the measured ratios; writes bench.json
	@scripts/bench.sh
soak: ## the long forms of the randomised proofs (SOAK=10m)
	@scripts/soak.sh
crash: ## SIGKILL at every crash point and of every process, and compare
	@scripts/crash.sh
incident: ## replay the trimming incident with the old rules and with ours
	@scripts/incident.sh
lexicons: ## refresh the embedded lexicons from a local checkout (LEXICONS=folder)
	@scripts/lexicons.sh
images: ## docker images of the services
	@scripts/images.sh
