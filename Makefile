# What can be asked for: `make` or `make help` lists it.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
DOCDIR ?= $(PREFIX)/share/doc/holdfast
SYSCONFDIR ?= /etc
UNITDIR ?= $(if $(filter /usr,$(PREFIX)),/lib/systemd/system,/etc/systemd/system)
DESTDIR ?=
CARGO ?= cargo
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help build install uninstall

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the holdfast binary and the controller simulator, optimised
	$(CARGO) build --release --locked --bins

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
