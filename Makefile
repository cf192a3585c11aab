# What a developer types is what CI calls.
.PHONY: run test test-deps test-loom torture endurance check check-deps bench

CARGO ?= cargo
DENY_VERSION := 0.20.2

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

# The lock-free code under loom: src/buffer/model.rs
test-loom:
	SEQSVR_LOOM=1 $(CARGO) test --lib

# Every fault of docs/guarantees.md, in full, with and without its guard, in an hour: tests/faults; ONLY="rewind" for some
torture: test-deps
	$(CARGO) test --release --features faults --test torture -- $(ONLY)

# Bounds on speed and loss with the database slow, away or fought for, in half an hour: tests/endurance; ONLY="latency zipf" for some
endurance: test-deps
	$(CARGO) test --release --test endurance -- $(ONLY)

# Form, lints, documentation, dependencies.
check: check-deps
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --test endurance --locked -- -D warnings
	$(CARGO) clippy --features faults --bin seqsvr --test faults --test torture --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked
	./scripts/deny.sh

check-deps:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked --version $(DENY_VERSION)

# Speed, measured: see scripts/bench.sh
bench:
	./scripts/bench.sh
