# What a developer types is what CI calls.
.PHONY: run test test-deps test-loom picture torture endurance fuzz fuzz-deps mutants mutants-deps check check-deps
.PHONY: api-check bench bench-peers check-instructions check-instructions-deps image deploy-check

CARGO ?= cargo
# Tests that run side by side: most of them wait, for a database to start or for a time limit to pass.
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(nproc))))
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
MUTANTS_VERSION := 27.1.0
GUNGRAUN_VERSION := 0.20.0

# Builds and runs the server as ./config.yml says: on the embedded store, ids at http://localhost:8000/new
run:
	$(CARGO) run --release

# All tests. They start private database servers in temporary folders and leave nothing behind.
test: test-deps test-loom
	$(CARGO) test
	$(CARGO) test --features faults --test faults

# The database servers for the tests: found, or installed (as root on Debian), or a message that says what to install.
test-deps:
	./scripts/test-deps.sh

# The dashboard with two nodes in trouble, drawn from what Prometheus answers to its queries: grafana/overview.svg
picture: test-deps
	SEQSVR_PICTURE=$(CURDIR)/grafana/overview.svg $(CARGO) test --test it every_panel_shows_what_happens

# The lock-free code under loom: src/buffer/model.rs
test-loom:
	SEQSVR_LOOM=1 $(CARGO) test --lib

# Every fault of docs/guarantees.md, in full, with and without its guard, within an hour: tests/faults; ONLY="rewind" for some.
# All of it begins with a minute of each fuzz target.
torture: test-deps $(if $(ONLY),,fuzz)
	$(CARGO) test --release --features faults --test torture -- $(ONLY)

# Bounds on speed and loss with the database slow, away or fought for, in half an hour: tests/endurance; ONLY="latency zipf" for some
endurance: test-deps
	$(CARGO) test --release --test endurance -- $(ONLY)

# Random inputs to what parses, each held to its properties: fuzz/; ONLY=query for one, FUZZ_SECONDS=600 for longer
FUZZ_SECONDS ?= 60
fuzz: fuzz-deps
	FUZZ_SECONDS=$(FUZZ_SECONDS) ./scripts/fuzz.sh $(ONLY)

fuzz-deps:
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked --version $(FUZZ_VERSION)

# Small changes to the rules that keep ids unique, each of which a unit test must notice: .cargo/mutants.toml; an hour
mutants: mutants-deps
	$(CARGO) mutants

mutants-deps:
	@$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install cargo-mutants --locked --version $(MUTANTS_VERSION)

# Form, lints, documentation, dependencies. cargo-deny is built without optimization, which saves minutes: it runs for a second.
check: check-deps
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --test endurance --locked -- -D warnings
	$(CARGO) clippy --features faults --bin seqsvr --test faults --test torture --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked
	./scripts/deny.sh

check-deps:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked --debug --version $(DENY_VERSION)

# openapi.yaml, validated, and compared with what a running server answers: scripts/api-check.sh
api-check:
	$(CARGO) build --locked
	./scripts/api-check.sh "$${CARGO_TARGET_DIR:-target}/debug/seqsvr"

# Speed, beside what one would pick in its place, in half an hour: benches/http; ONLY="new pipelined" for some of it
bench:
	$(if $(ONLY),,$(CARGO) bench --bench next)
	$(CARGO) bench --bench http -- $(ONLY)

# What it is compared with: found, or installed (as root on Debian), or a message that says what to install.
bench-peers:
	./scripts/bench-peers.sh

# Instructions an id and a request, counted by callgrind; each has a bound: benches/instructions.rs
check-instructions: check-instructions-deps
	$(CARGO) bench --bench instructions

# Its runner must be of the same version as the crate.
check-instructions-deps:
	@command -v valgrind >/dev/null || { echo "valgrind is missing (on Debian, as root: apt-get install valgrind)"; exit 1; }
	@gungraun-runner --version 2>/dev/null | grep -qF $(GUNGRAUN_VERSION) || $(CARGO) install gungraun-runner --locked --version $(GUNGRAUN_VERSION)

# The container's image, built and tried without Docker (as root, on Debian), in ten minutes; with Docker: docker build -t seqsvr .
image:
	./scripts/image.sh

# What is in deploy/, by the tools that it is for: the schemas of Compose and Kubernetes, systemd-analyze
deploy-check:
	./scripts/deploy-check.sh
