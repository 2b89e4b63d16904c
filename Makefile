# Everything a developer does here, by name. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# `make servers BROKERS=3`; only what is said here, not what an environment happens to hold.
ifeq ($(origin BROKERS),command line)
export MILLRACE_BROKER_COUNT := $(BROKERS)
endif

SCRIPTS := $(wildcard docker/servers docker/tools docker/test docker/story docker/demo docker/keep docker/bugs docker/peers docker/versions .ci/run)

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.* ## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# ---- running ----

.PHONY: up
up: ## start the servers and `millrace run` in the background, and that again if it ends; what runs is left alone
	cargo build --release --locked
	docker/servers up

.PHONY: down
down: ## stop them all
	@docker/servers down

.PHONY: servers
servers: ## start Kafka, schema registry and Postgres alone; BROKERS=3 starts three brokers
	@docker/servers start

.PHONY: env
env: ## print the addresses; use: eval "$(make env)"
	@docker/servers env

.PHONY: clean
clean: ## stop them all and delete their data
	@docker/servers clean

.PHONY: demo
demo: ## set everything up and show it working
	@docker/demo

# ---- changing ----

.PHONY: check
check: fmt clippy doc deny shellcheck versions compatibility bugs ## what needs no server: format, lints, docs, licences, versions, schemas

.PHONY: test
test: ## all tests, against servers of their own
	docker/test

.PHONY: bench
bench: ## measure beside the limits of this machine: BENCH=clicks,sale picks rows, BENCH_QUICK=1 is short
	docker/servers install
	docker/tools java kafka wrk oha pgbench
	docker/servers start
	eval "$$(docker/servers env)" && cargo bench --locked --bench limits

.PHONY: bench-peers
bench-peers: ## measure beside what one would take instead: BENCH=clicks-512,sale picks rows, BENCH_QUICK=1 is short
	docker/servers install
	docker/tools java wrk oha redis go javac streams
	docker/peers
	docker/servers start
	eval "$$(docker/servers env)" && cargo bench --locked --bench peers

.PHONY: test-faults
test-faults: ## the fault tests at length: MILLRACE_FAULTS sets how often, MILLRACE_SEED repeats a run
	MILLRACE_FAULTS=$${MILLRACE_FAULTS:-10} docker/test --test it -- faults::

.PHONY: test-bugs
test-bugs: ## seed each bug of tests/bugs and show which test catches it: half an hour
	docker/bugs

.PHONY: story
story: ## print a domain's files in reading order: make story d=orders
	@docker/story $(d)

.PHONY: fmt clippy doc deny shellcheck versions compatibility bugs
fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items --locked

deny:
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked
	cargo deny check bans licenses sources
	@if cargo deny fetch db; then cargo deny --offline check advisories; \
	else echo 'deny: the advisory database cannot be reached: advisories are not checked'; fi

shellcheck:
	@if command -v shellcheck >/dev/null; then shellcheck -x $(SCRIPTS); else echo 'shellcheck is not here: skipped'; fi

versions:
	docker/versions

compatibility:
	cargo test -p schemas --test compatibility --locked

bugs:
	docker/bugs --check
