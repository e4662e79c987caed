# What a newcomer and CI call. Every target is one command or script that can also be called by hand.
.DEFAULT_GOAL := help
.PHONY: help run install force test test-abuse test-faults test-web test-contract test-better-auth lint smoke audit mutants bench bench-growth
.NOTPARALLEL:

SCRIPTS := .ci/run $(wildcard tests/*.sh tests/*/*.sh)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile | expand -t 20

run: ## build and serve, on a private PostgreSQL unless DATABASE_URL is set; settings also from .env
	@exec tests/run.sh

# For a package: DESTDIR; for another place than /usr/local: PREFIX; for a program that is built already: BINARY.
PREFIX = /usr/local
BINARY = target/release/latchkey
install: $(BINARY) ## the program, a systemd unit and an example of its settings; PREFIX, DESTDIR
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib/systemd/system" "$(DESTDIR)$(PREFIX)/share/latchkey"
	install -s -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/latchkey"
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' src/manual/latchkey.service >"$(DESTDIR)$(PREFIX)/lib/systemd/system/latchkey.service"
	install -m 644 src/manual/latchkey.env "$(DESTDIR)$(PREFIX)/share/latchkey/latchkey.env"

target/release/latchkey: force
	cargo build --release --locked

test: ## all tests but those of the two targets below, on a throw-away PostgreSQL; FILTER=name for some of them
	@exec tests/cluster.sh temp cargo test --locked --no-fail-fast $(FILTER) -- --test-threads=6 --skip abuse:: --skip faults:: --skip proxies::

test-abuse: ## the tests that open thousands of connections, on a program that is optimized a little, as memory is measured
	@ulimit -n "$$(ulimit -Hn)"; export CARGO_PROFILE_DEV_OPT_LEVEL=1; \
	exec tests/cluster.sh temp cargo test --locked --test server abuse::

test-faults: ## restarts under load, PgBouncer, nginx, fail2ban, connections that rest (about two minutes); TEST=name
	@exec tests/cluster.sh temp tests/faults.sh cargo test --locked --test server -- --nocapture $(or $(TEST),faults:: proxies::)

test-web: ## the JavaScript client in Node and the page in Chromium, against a server of their own
	@exec tests/cluster.sh temp tests/web/run.sh

test-contract: ## openapi.json: valid for redocly and spectral, and true for schemathesis on a server of its own
	@exec tests/cluster.sh temp tests/contract/run.sh

test-better-auth: ## a real Better Auth from npm and the tokens that it issues; needs Node 20
	@exec tests/cluster.sh temp tests/better-auth/run.sh

lint: ## formatting, compiler and clippy warnings, shell syntax
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	for script in $(SCRIPTS); do bash -n "$$script" || exit 1; done
	if command -v shellcheck; then shellcheck $(SCRIPTS); fi

smoke: ## the README's flow in curl, on a server of its own; URL=https://host for one that runs already
	@exec $(if $(URL),tests/smoke.sh '$(URL)',tests/cluster.sh temp tests/smoke.sh)

audit: ## one screen: lines per room, crates, advisories, unsafe code, claims
	@exec tests/audit.sh

mutants: ## removes the guard of each claim on a copy and shows the test that fails; PART=1/4, ONLY='S12 S13'
	@exec tests/cluster.sh temp tests/mutants.sh

bench: ## latchkey beside axum with sqlx, axum tuned and the machine's limit, in one table (under five minutes)
	@exec tests/cluster.sh temp tests/bench/run.sh compare

bench-growth: ## the cost of each statement, on disk and in memory, with a million tasks (three minutes); not in CI
	@exec tests/cluster.sh temp tests/bench/run.sh growth
