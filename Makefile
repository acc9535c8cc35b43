# What can be asked for: `make` or `make help` lists it.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
DOCDIR ?= $(PREFIX)/share/doc/holdfast
SYSCONFDIR ?= /etc
UNITDIR ?= $(if $(filter /usr,$(PREFIX)),/lib/systemd/system,/etc/systemd/system)
DESTDIR ?=
CARGO ?= cargo
# Seconds: a test that hangs must not hang for ever. Building is not part of it.
TEST_TIMEOUT ?= 1200
# At a terminal Ctrl-C must reach the tests; elsewhere the deadline must reach all their processes.
TIMEOUT_FLAGS := --kill-after=30 $(shell test -t 0 && echo --foreground)
# ZFS by its library where the headers are; asked for again in each recipe, because setup may have just installed them.
FEATURES = $(shell pkg-config --exists libzfs 2>/dev/null && echo --features holdfast-agents/libzetta)
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help setup demo test fmt-check clippy build install uninstall soak-build soak soak-twice soak-real recovery bench zfs-guest zfs-test zfs-test-more powercut mutants

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what demo and tests need and is missing: QEMU and small tools (says what; root only for that)
	@command -v $(CARGO) >/dev/null || { echo "make: there is no cargo: install Rust 1.88 or newer, see https://rustup.rs" >&2; exit 1; }
	@tests/setup/install.sh

demo: setup ## the whole story on a real guest, live: deploy, snapshot, upgrade, roll back, kill -9, delete
	@echo "demo: building (the first time, this takes some minutes)"
	@$(CARGO) build $(FEATURES) -p holdfast-agents --bin holdfast -p holdfast-tests --bin demo
	@$(TARGET_DIR)/debug/demo $(DEMO_FLAGS)

test: setup fmt-check clippy ## everything: format, lints, all tests (those on a real guest included)
	$(CARGO) test --workspace $(FEATURES) --no-run
	timeout $(TIMEOUT_FLAGS) $(TEST_TIMEOUT) $(CARGO) test --workspace $(FEATURES)
	$(MAKE) --no-print-directory zfs-test
	$(MAKE) --no-print-directory zfs-test-more

zfs-guest: setup ## the guest that make zfs-test runs in, with OpenZFS's modules compiled: minutes the first time, then at once
	@tests/zfsguest/build.sh $(TARGET_DIR)/zfsguest

zfs-test: zfs-guest ## tests on real OpenZFS, inside a guest: three to four minutes (ZFS_TEST_FLAGS=--required: no skipping)
	$(CARGO) build $(FEATURES) --package holdfast-tests --bin zfs-test
	timeout $(TIMEOUT_FLAGS) 1600 $(TARGET_DIR)/debug/zfs-test $(FEATURES) $(ZFS_TEST_FLAGS)

zfs-test-more: zfs-guest ## what of them takes longer: the decision table of guarded rollback, the long chain by the zfs command
	$(CARGO) build $(FEATURES) --package holdfast-tests --bin zfs-test
	timeout $(TIMEOUT_FLAGS) 1200 $(TARGET_DIR)/debug/zfs-test --more $(FEATURES) $(ZFS_TEST_FLAGS)

# Both are components of the Rust toolchain that a machine may lack. Continuous integration has them.
fmt-check:
	@if $(CARGO) fmt --version >/dev/null 2>&1; then echo "$(CARGO) fmt --check"; $(CARGO) fmt --check; \
	else echo "test: skipped: the format is not checked, rustfmt is not installed (rustup component add rustfmt)"; fi

clippy:
	@if $(CARGO) clippy --version >/dev/null 2>&1; then echo "$(CARGO) clippy"; \
		$(CARGO) clippy --workspace $(FEATURES) --all-targets -- -D warnings; \
	else echo "test: skipped: lints are not checked, clippy is not installed (rustup component add clippy)"; fi

build: ## the holdfast binary and the controller simulator, optimised
	$(CARGO) build $(FEATURES) --release --locked --bins

install: ## binary, service, docs, example settings (DESTDIR, PREFIX); existing settings are kept. Build first.
	@test -x $(TARGET_DIR)/release/holdfast || { echo "install: no $(TARGET_DIR)/release/holdfast: run make build first" >&2; exit 1; }
	install -d -m 0755 $(DESTDIR)$(BINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(DOCDIR)
	install -m 0755 $(TARGET_DIR)/release/holdfast $(DESTDIR)$(BINDIR)/holdfast
	sed -e 's|@BINDIR@|$(BINDIR)|' -e 's|@DOCDIR@|$(DOCDIR)|' agents/systemd/holdfast.service > $(DESTDIR)$(UNITDIR)/holdfast.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/holdfast.service
	install -m 0644 docs/*.md $(DESTDIR)$(DOCDIR)
	install -d -m 0750 $(DESTDIR)$(SYSCONFDIR)/holdfast
	test -e $(DESTDIR)$(SYSCONFDIR)/holdfast/holdfast.toml || \
		install -m 0600 agents/systemd/holdfast.toml $(DESTDIR)$(SYSCONFDIR)/holdfast/holdfast.toml
	@echo "installed; write controller and device into $(SYSCONFDIR)/holdfast/holdfast.toml, then: systemctl enable --now holdfast"

uninstall: ## takes back what install put there, but not settings and data
	rm -f $(DESTDIR)$(BINDIR)/holdfast $(DESTDIR)$(UNITDIR)/holdfast.service
	rm -f $(patsubst docs/%,$(DESTDIR)$(DOCDIR)/%,$(wildcard docs/*.md))

CUTS ?= 100000
SEED ?= 0
SEEDS ?= 1000

soak-build: setup ## builds the simulation, optimised as a whole
	$(CARGO) build $(FEATURES) --profile soak --locked --package holdfast-tests --bin soak

soak: soak-build ## cuts the power of simulated nodes CUTS times, from SEED on; fails on the first broken promise
	$(TARGET_DIR)/soak/soak --cuts $(CUTS) --seed $(SEED)

soak-twice: soak-build ## explores SEEDS seeds twice, from SEED on; fails on two traces of one seed, or a broken promise
	$(TARGET_DIR)/soak/soak --twice $(SEEDS) --seed $(SEED)

KILLS ?= 2000
# On a real file system, please: /tmp may be memory.
KILL_DIRECTORY ?= /var/tmp

# soak-real and powercut wait for disks and guests: as tests are built, they are quick enough.
soak-real: setup ## kills real nodes with the real qemu-img KILLS times while they work; fails on a broken promise
	$(CARGO) build $(FEATURES) --locked --package holdfast-tests --bin soak-real
	$(TARGET_DIR)/debug/soak-real --kills $(KILLS) --seed $(SEED) --directory $(KILL_DIRECTORY)

recovery: setup ## boots a node of 100 applications and 800 snapshots on real files; fails when it takes above two seconds
	$(CARGO) run --release --locked --package holdfast-tests --bin recovery

# Figures of files are of the file system of KILL_DIRECTORY. BENCH_FLAGS: --only NAME for a part, --plot FILE to draw again.
bench: setup ## what everything costs, beside what it would cost without Holdfast: a table and target/bench.json (10 minutes)
	$(CARGO) build $(FEATURES) --release --locked --package holdfast-agents --bin holdfast --package holdfast-tests --bin bench --bin soak
	began=$$(date +%s) && \
	timeout $(TIMEOUT_FLAGS) 600 $(CARGO) bench --locked --package holdfast-pubsub --bench bus && \
	timeout $(TIMEOUT_FLAGS) 1800 $(TARGET_DIR)/release/bench --target $(TARGET_DIR) --since $$began --directory $(KILL_DIRECTORY) $(BENCH_FLAGS)

powercut: CUTS = 10
STORAGE ?= ext4 zfs

powercut: zfs-guest ## cuts the power of a guest with a real node in it CUTS times on each STORAGE (ext4, zfs); fails on a broken promise
	$(CARGO) build $(FEATURES) --locked --package holdfast-tests --bin powercut
	for storage in $(STORAGE); do \
		$(TARGET_DIR)/debug/powercut --storage $$storage --cuts $(CUTS) --seed $(SEED) --directory $(KILL_DIRECTORY) || exit 1; \
	done

# One of 200 parts, spread over all files: about five mutants. SHARD=0/1 is all of them, and takes half a day.
SHARD ?= 0/200

mutants: ## breaks operation, recovery and commit code bit by bit: every break must fail a test (SHARD=k/n; hours)
	@$(CARGO) mutants --version >/dev/null 2>&1 || \
		{ echo "make: there is no cargo-mutants: cargo install cargo-mutants --locked" >&2; exit 1; }
	$(CARGO) mutants --output $(TARGET_DIR) --shard $(SHARD) --sharding round-robin $(MUTANTS_FLAGS) \
		-- --lib --test runtime --test conformance --test world --test crashsafe --test records --test rows --test reserve --test quarantine
