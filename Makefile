# What a developer types is what CI calls.
.PHONY: run test test-deps test-loom torture check check-deps bench

CARGO ?= cargo
DENY_VERSION := 0.20.2

# Builds and runs the server as ./config.yml says: on the embedded store, ids at http://localhost:8000/new
run:
	$(CARGO) run --release

# All tests. They start private database servers in temporary folders and leave nothing behind.
test: test-deps test-loom
	$(CARGO) test

# The database servers for the tests: found, or installed (as root on Debian), or a message that says what to install.
test-deps:
	./scripts/test-deps.sh

# The lock-free code under loom: src/buffer/model.rs
test-loom:
	SEQSVR_LOOM=1 $(CARGO) test --lib

# Bounds on speed and loss with the database slow, away or fought for, in half an hour: tests/torture; ONLY="latency zipf" for some
torture: test-deps
	$(CARGO) test --release --test torture -- $(ONLY)

# Form, lints, documentation, dependencies.
check: check-deps
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --test torture --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items --locked
	./scripts/deny.sh

check-deps:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked --version $(DENY_VERSION)

# Speed, measured: see scripts/bench.sh
bench:
	./scripts/bench.sh
