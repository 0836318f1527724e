# Entrepot. `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Tools, pinned. They are built from source into .bin.
BUF_VERSION            := v1.75.0
PROTOC_GEN_GO_VERSION  := v1.36.12
CONNECT_VERSION        := v2.0.2
GOLANGCI_LINT_VERSION  := v2.15.0
GOTESTSUM_VERSION      := v1.13.0

BIN     := $(CURDIR)/.bin
BUILD   := $(CURDIR)/.build
PLUGINS := $(notdir $(patsubst %/,%,$(dir $(wildcard plugins/*/main.go))))

export PATH := $(BIN):$(PATH)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup build ## from nothing to a reconciled trade (ORDERS=n, KEEP=1 leaves the shop open)
	@$(BUILD)/demo -orders $(or $(ORDERS),2000) $(if $(KEEP),-keep)

.PHONY: test
test: setup readers build $(BIN)/gotestsum ## every test, on a private PostgreSQL
	@ENTREPOT_BUILD=$(BUILD) $(BIN)/gotestsum --format pkgname --hide-summary skipped -- -trimpath -timeout 9m ./...
	@cd examples/giftwrap && go test ./...

.PHONY: chaos
chaos: setup build ## processes killed at every step of every saga, at random (SEED=n makes the same choices)
	@ENTREPOT_BUILD=$(BUILD) SAGA_SEED=$(strip $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom))) go test -trimpath -count=1 -timeout 45m -v -run TestEveryStepOfEverySaga ./examples/marketplace/shop

.PHONY: bench
bench: setup build ## the benchmarks of docs/performance.md
	@$(BUILD)/bench

.PHONY: lint
lint: $(BIN)/golangci-lint $(BIN)/buf ## golangci-lint, buf lint, formatting
	@$(BIN)/golangci-lint run ./...
	@$(BIN)/buf lint
	@$(BIN)/buf format -d --exit-code >/dev/null || { echo "proto files are not formatted: run $(BIN)/buf format -w"; exit 1; }

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-connect-go ## Go code from proto/
	@$(BIN)/buf generate

.PHONY: generated
generated: generate ## fail when committed generated code is not current
	@test -z "$$(git status --porcelain -- '*.pb.go' '*.connect.go')" || { git status --porcelain -- '*.pb.go' '*.connect.go'; echo "generated code is not current: run make generate and commit"; exit 1; }

.PHONY: breaking
breaking: $(BIN)/buf ## contracts against the last tag
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null) || { echo "no tag yet: nothing to compare with"; exit 0; }; $(BIN)/buf breaking --against ".git#tag=$$tag"

.PHONY: build
build: ## the kernel, every plugin, the demo and the benchmark, into .build
	@mkdir -p $(BUILD)
	@go build -trimpath -o $(BUILD)/ ./core/cmd/entrepot $(addprefix ./plugins/,$(PLUGINS)) ./examples/marketplace/demo ./examples/marketplace/bench

.PHONY: setup
setup: ## PostgreSQL >= 15 where there is none, unless DATABASE_URL is set
	@scripts/setup-postgres

.PHONY: readers
readers: ## programs that read labels back and follow the pages, for tests (zbar, poppler, curl, jq)
	@scripts/setup-readers

.PHONY: clean
clean: ## remove what was built and run
	@rm -rf $(BUILD) examples/marketplace/.run

$(BIN)/buf:
	GOBIN=$(BIN) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
$(BIN)/protoc-gen-go:
	GOBIN=$(BIN) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
$(BIN)/protoc-gen-connect-go:
	GOBIN=$(BIN) go install connectrpc.com/connect/v2/cmd/protoc-gen-connect-go@$(CONNECT_VERSION)
$(BIN)/golangci-lint:
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
$(BIN)/gotestsum:
	GOBIN=$(BIN) go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)
