# `make` lists what there is to make.

GO ?= go
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 10s
BENCHTIME ?= 1s

export CGO_ENABLED ?= 0

version := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Mounts, devices and owners need root: the tests run as root, what compiles them need not.
ifneq ($(shell id -u),0)
as_root := sudo env "PATH=$(PATH)"
exec := -exec '$(as_root)'
endif

.PHONY: help
help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that the rest needs
	@scripts/setup
	@command -v $(GO) >/dev/null || { echo "make: install Go $$(awk '$$1 == "go" { print $$2 }' go.mod) or newer, and put it on PATH" >&2; exit 1; }

.PHONY: build
build: ## .build/layerbuild
	@mkdir -p .build
	$(GO) build -trimpath -ldflags '-X main.version=$(version)' -o .build/ ./cmd/layerbuild

.PHONY: bases
bases: setup ## the root filesystems that tests and demo start from
	@scripts/base-busybox
	@$(as_root) scripts/base-debian

.PHONY: check
check: ## gofmt and go vet
	@test -z "$$(gofmt -l .)" || { echo "make: not gofmt'ed:" >&2; gofmt -l . >&2; exit 1; }
	$(GO) vet ./...

.PHONY: test
test: setup bases check ## everything that must pass
	$(GO) test $(exec) -count=1 -timeout 30m ./...

.PHONY: test-long
test-long: setup bases ## the tests that take minutes each, or need buildah or a browser
	@scripts/setup buildah chromium
	LAYERBUILD_LONG=1 $(GO) test $(exec) -count=1 -timeout 60m -run 'TestDockerfiles|TestBrowser' -v ./cmd/layerbuild ./report

.PHONY: race
race: bases ## the tests, under the race detector
	@scripts/setup gcc libc6-dev
	CGO_ENABLED=1 $(GO) test -race $(exec) -count=1 -timeout 60m ./...

.PHONY: lint
lint: ## golangci-lint
	$(GOLANGCI_LINT) run

.PHONY: bench
bench: bases ## the benchmarks
	@scripts/setup pigz
	$(GO) test $(exec) -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...
	$(GO) run $(exec) ./bench

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (10s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: demo
demo: setup build ## build an image, run it, build it again
	@$(as_root) scripts/demo

.PHONY: clean
clean: ## remove what was built here
	rm -rf .build
