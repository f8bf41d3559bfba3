# capv-static-ip: `make help` lists what can be done here.
#
# Needs Go, make and git. Every other program is built from a module file under
# tests/programs, at the version written there, and kept in a cache.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO ?= go
# Nothing here needs a C compiler, except the race detector (RACE=1).
export CGO_ENABLED := $(if $(RACE),1,0)
# What is built, checked and tested has the same flags, so that it is compiled once.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) -trimpath)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# The image that `make image` makes and `make manifests` names.
IMG ?= capv-static-ip:dev
# The image that it is put on, and the platform that it is for.
BASE ?= scratch
ARCH ?= $(shell $(GO) env GOARCH)
# COMPILED=1 compiles in the image BUILDER instead of here.
BUILDER ?= golang:1.26
IMAGE_ARGS = $(if $(COMPILED),,--target prebuilt) --build-arg BUILDER=$(BUILDER) \
	--build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) --platform linux/$(ARCH) --tag $(IMG)

UNIT := ./webhook/... ./machine/... ./allocator/... ./collector/... ./inventory/... ./cli/... ./installation/... ./removal/... ./procedure/... ./adoption/... ./migration/... ./reservation/... ./vcenter/... ./web/... ./cmd/... ./tests/docs/... ./tests/programs/... ./tests/stack/... ./tests/demo/... ./tests/lab/... ./tests/bench/... ./tests/torture/...
INTEGRATION := ./tests/harness/... ./tests/integration/... ./tests/install/... ./tests/monitoring/...
E2E := ./tests/e2e/...
# For one package of tests.
TIMEOUT ?= 40m
# For `make fuzz`, per target.
FUZZTIME ?= 20s
# How gotestsum shows the tests.
FORMAT := pkgname-and-test-fails
# More for `go test`, as in `make test-unit TESTFLAGS='-run TestName -count=1'`.
TESTFLAGS ?=

# $(call tool,NAME) runs a program at its pinned version; it is built first if
# the cache does not have it.
tool = tool="$$($(GO) run ./tests/programs/build $(1))" && "$$tool"
gotest = $(call tool,gotestsum) --format $(FORMAT) --format-hide-empty-pkg -- \
	$(if $(RACE),-race) -timeout $(TIMEOUT) $(TESTFLAGS)
# release/ has a module file of its own, which ./... leaves out.
release-unit = cd release && GOFLAGS=-trimpath $(GO) test -timeout $(TIMEOUT) $(TESTFLAGS) ./...
# $(call programs,NAMES) builds programs that the cache does not have. It comes
# before tests that use them, which then have their time for themselves.
programs = $(GO) run ./tests/programs/build $(1) >/dev/null
PLANE := kustomize clusterctl etcd kube-apiserver kube-controller-manager kubectl metal3-ipam in-cluster-ipam
STACK := $(PLANE) cert-manager vcenter cluster-api kubeadm-bootstrap kubeadm-control-plane workload capv
# What installs us, beside kubectl and clusterctl.
INSTALLERS := helm cluster-api-operator
# What looks at alerts and dashboard.
MONITORING := promtool promql-selectors monitoring-objects
# Rights are generated from the markers in the code that needs them.
controller-gen = $(call tool,controller-gen) rbac:roleName=capv-static-ip-manager \
	paths=./cmd/... paths=./webhook/... paths=./machine/... paths=./allocator/...
deepcopy-gen = $(call tool,controller-gen) object paths=./allocator/capi
# The dashboard, made by a main with a module file of its own.
dashboard = (cd deploy/monitoring/dashboard && GOWORK=off $(GO) run .)
# The rules, as the Prometheus operator wants them.
prometheus-rule = { \
	printf '\# Made of rules.yaml by `make generate`.\n'; \
	printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: capv-static-ip\n'; \
	printf '  namespace: capv-static-ip-system\n  labels:\n    app.kubernetes.io/name: capv-static-ip\n'; \
	printf '    app.kubernetes.io/part-of: capv-static-ip\nspec:\n'; \
	sed -e '/^\#/d' -e 's/^/  /' deploy/monitoring/rules.yaml; }

##@ Use

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Play the whole scenario on a real control plane; KEEP=1 keeps it running.
	@KEEP='$(KEEP)' $(GO) run ./tests/demo

.PHONY: lab
lab: ## Run the whole stack, vCenter included, until Ctrl-C; ONCE=1 only tries it; PLAY=adapter, migrate or restore plays a journey.
	@ONCE='$(ONCE)' PLAY='$(PLAY)' $(GO) run ./tests/lab

.PHONY: build
build: ## Build bin/capv-static-ip.
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/capv-static-ip ./cmd/capv-static-ip

.PHONY: plugin
plugin: ## Build bin/kubectl-static_ip, the plugin "kubectl static-ip", with its completion.
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/kubectl-static_ip ./cmd/kubectl-static_ip
	@cp cmd/kubectl-static_ip/kubectl_complete-static_ip bin/

.PHONY: manifests
manifests: ## Render deploy/default into dist/capv-static-ip.yaml, with the image IMG.
	@mkdir -p dist/overlay
	@printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- ../../deploy/default\n' \
		> dist/overlay/kustomization.yaml
	@$(call tool,kustomize) version >/dev/null && cd dist/overlay && "$$tool" edit set image 'capv-static-ip=$(IMG)' && \
		"$$tool" build . > ../capv-static-ip.yaml
	@echo 'dist/capv-static-ip.yaml: image $(IMG)'

.PHONY: image
image: ## Make the image IMG, on BASE, with docker, buildah or podman.
ifndef COMPILED
	GOOS=linux GOARCH=$(ARCH) $(GO) build -ldflags '$(LDFLAGS)' -o bin/capv-static-ip ./cmd/capv-static-ip
endif
	@if docker info >/dev/null 2>&1; then set -- docker build; \
	elif command -v buildah >/dev/null; then set -- buildah bud --isolation chroot; \
	elif command -v podman >/dev/null; then set -- podman build; \
	else echo 'make image needs docker, buildah or podman' >&2; exit 1; fi; \
	set -- "$$@" $(IMAGE_ARGS) .; echo "$$@"; "$$@"

##@ Release

# Where the image and the chart of a release will be, as registry.example.com/capi.
REGISTRY ?=
# A command that signs {in} into {out}, for the sums of a release.
SIGN ?=

.PHONY: release
release: ## Make all files of release VERSION into dist/VERSION, for REGISTRY; publishes nothing.
	@cd release && GOFLAGS= $(GO) run . -root .. -version '$(if $(filter file,$(origin VERSION)),,$(VERSION))' -registry '$(REGISTRY)' -sign '$(SIGN)'

.PHONY: push
push: ## Push image, provider and chart of dist/VERSION to REGISTRY, for which they were made.
	@test -n '$(REGISTRY)' || { echo 'make push needs REGISTRY' >&2; exit 1; }
	@cd release && GOFLAGS= $(GO) run ./push ../dist/$(VERSION)/capv-static-ip-image.oci.tar '$(REGISTRY)/capv-static-ip:$(VERSION)'
	@cd release && GOFLAGS= $(GO) run ./push ../dist/$(VERSION)/capv-static-ip-provider.oci.tar '$(REGISTRY)/capv-static-ip-provider:$(VERSION)'
	@$(call tool,helm) push $(if $(PLAIN_HTTP),--plain-http) 'dist/$(VERSION)/capv-static-ip-$(VERSION:v%=%).tgz' 'oci://$(REGISTRY)/charts'

.PHONY: release-test
release-test: ## Make a release twice and load it into registries; several minutes; needs skopeo.
	@command -v skopeo >/dev/null || { echo 'make release-test needs skopeo: install that package' >&2; exit 1; }
	@$(call programs,$(PLANE) helm cyclonedx-gomod)
	@cd release && GOFLAGS= $(GO) test -tags=heavy -timeout $(TIMEOUT) $(TESTFLAGS) ./...

##@ Test

.PHONY: test
test: lint ## Everything: lint, unit tests, integration tests on a real control plane.
	@$(call programs,$(PLANE) $(INSTALLERS) $(MONITORING))
	@$(release-unit)
	@$(gotest) $(UNIT) $(INTEGRATION)

.PHONY: check-all
check-all: ## Everything there is to run, heavy tests too, with a table at the end; ONLY=demo,e2e for some.
	@ONLY='$(ONLY)' .ci/check-all

.PHONY: test-unit
test-unit: ## The tests that need no control plane.
	@$(call programs,kustomize clusterctl)
	@$(gotest) $(UNIT)
	@$(release-unit)

.PHONY: test-integration
test-integration: ## The tests on a real control plane with the real IPAM provider.
	@$(call programs,$(PLANE) $(INSTALLERS) $(MONITORING))
	@$(gotest) $(INTEGRATION)

.PHONY: e2e
e2e: FORMAT := testname
e2e: ## The tests on a whole management cluster, with CAPI, CAPV and a simulated vCenter.
	@$(call programs,$(STACK))
	@$(gotest) $(E2E)

# For how long, the seed of a run to repeat, and a history to look at again.
MINUTES ?= 60
SEED ?= 0
CHECK ?=

.PHONY: torture
torture: ## Break the whole stack for MINUTES (60), and prove that no address was given twice, lost or left; SEED=N repeats.
ifeq ($(CHECK),)
	@$(call programs,$(STACK))
endif
	@$(GO) run ./tests/torture -minutes $(MINUTES) -seed $(SEED) -check '$(CHECK)' $(TORTUREFLAGS)

.PHONY: test-web
test-web: ## The page of the plugin in a browser; needs chromium, and npm the first time.
	@command -v chromium >/dev/null || { echo 'make test-web needs chromium: install that package' >&2; exit 1; }
	@$(gotest) ./tests/web/...

.PHONY: pictures
pictures: ## Take the pictures of docs/operate/web.md anew.
	@$(GO) test ./tests/web -tags=pictures -count=1 -run TestPicturesAreTaken -pictures '$(CURDIR)/docs/operate'

.PHONY: fuzz
fuzz: ## Fuzz each fuzz target for FUZZTIME.
	@for pkg in $$($(GO) list $(UNIT)); do \
		for target in $$($(GO) test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$pkg" || exit 1; \
		done; \
	done

.PHONY: bench
bench: ## Measure what an injected address costs, in one run on one control plane; QUICK=1 in two minutes.
	@$(GO) run ./tests/bench $(if $(QUICK),-quick)

.PHONY: bench-stack
bench-stack: ## Measure beside CAPV's own way to static addresses, on a whole stack.
	@$(GO) run ./tests/bench/compare

# Mains of ours with a module file of their own, which ./... leaves out.
OWN_MAINS := release deploy/monitoring/dashboard tests/programs/cert-manager tests/programs/prometheus tests/programs/prometheus-operator tests/programs/vcenter tests/programs/workload

.PHONY: lint
lint: ## Check format and style.
	@$(call tool,golangci-lint) run ./... && \
	for dir in $(OWN_MAINS); do (cd $$dir && "$$tool" run --config $(CURDIR)/.golangci.yml ./...) || exit 1; done

# The platforms for which the plugin is built that are not those of CI.
PLUGIN_PLATFORMS := windows/amd64 darwin/arm64

.PHONY: vet-plugin
vet-plugin: ## Check that the plugin compiles for Windows and macOS.
	@for platform in $(PLUGIN_PLATFORMS); do \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO) vet ./cmd/kubectl-static_ip || exit 1; done

.PHONY: fmt
fmt: ## Format the code as lint wants it.
	@$(call tool,golangci-lint) fmt ./...

##@ Generate

# The chart has copies of these, because it cannot read outside of its folder.
CHART := deploy/chart/capv-static-ip
CHARTED := deploy/rbac/role.yaml deploy/rbac/viewer_role.yaml deploy/namespaced/cluster_role.yaml deploy/policies/manager_writes.yaml \
	deploy/webhook/mutating_webhook_configuration.yaml deploy/webhook/validating_webhook_configuration.yaml \
	deploy/monitoring/service.yaml deploy/monitoring/service_monitor.yaml deploy/monitoring/prometheus_rule.yaml deploy/monitoring/dashboard.json

.PHONY: generate
generate: ## Generate what is made from code: role.yaml, the deep copies, the dashboard, the rules for the Prometheus operator, the chart's files, docs/cli.md.
	@$(controller-gen) output:rbac:artifacts:config=deploy/rbac
	@$(deepcopy-gen)
	@$(prometheus-rule) > deploy/monitoring/prometheus_rule.yaml
	@$(dashboard) > deploy/monitoring/dashboard.json
	@cp $(CHARTED) $(CHART)/files
	@$(GO) test ./cmd/kubectl-static_ip -count=1 -run TestReferenceIsThatOfTheCommands -args -update >/dev/null

.PHONY: verify-generate
verify-generate: ## Fail if a generated file is stale.
	@fresh="$$(mktemp -d)"; trap 'rm -rf "$$fresh"' EXIT; \
	$(controller-gen) output:rbac:artifacts:config="$$fresh" || exit 1; \
	$(deepcopy-gen) output:object:dir="$$fresh" || exit 1; \
	$(prometheus-rule) > "$$fresh/prometheus_rule.yaml" || exit 1; \
	$(dashboard) > "$$fresh/dashboard.json" || exit 1; \
	for file in deploy/rbac/role.yaml allocator/capi/zz_generated.deepcopy.go deploy/monitoring/prometheus_rule.yaml deploy/monitoring/dashboard.json; do \
		git diff --no-index --exit-code "$$file" "$$fresh/$${file##*/}" || \
			{ echo "$$file is stale: run 'make generate'" >&2; exit 1; }; \
	done; \
	for file in $(CHARTED); do \
		git diff --no-index --exit-code "$(CHART)/files/$${file##*/}" "$$file" || \
			{ echo "$(CHART)/files is stale: run 'make generate'" >&2; exit 1; }; \
	done

.PHONY: clean
clean: ## Remove what was made here; the cache of programs stays.
	rm -rf bin dist
