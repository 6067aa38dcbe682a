# The image and the lists of its parts.

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's time, so that one commit gives one image and one chart.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
CREATED = $(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ)

BUILDER ?= $(call first,docker podman buildah)
BUILD_FLAGS ?=
# Optional groups, each a lock in requirements/: flags, lm, local-model, ray.
EXTRAS ?=
IMAGE ?= poolshift:$(VERSION)$(subst $(eval) ,,$(EXTRAS:%=-%))
SAVE ?= $(call first,docker podman) save

# Of the commit that is built: as flags, since Podman and Buildah take a LABEL of build arguments from their cache.
OCI := org.opencontainers.image
LABELS = version=$(VERSION) revision=$(REVISION) created=$(CREATED)

DIST := dist

# The service as it is installed, in the versions of the locks.
RUNTIME := $(SHIP)/poolshift-service

.PHONY: image sbom sbom-packages notices runtime

##@ Ship

image: ## Builds the image poolshift:VERSION; EXTRAS names optional groups
	$(BUILDER) build $(BUILD_FLAGS) --tag $(IMAGE) --build-arg EXTRAS="$(EXTRAS)" $(LABELS:%=--label $(OCI).%) .

sbom: $(SHIP_INSTALLED) ## Lists the image's parts, Debian's packages included, as CycloneDX in dist/
	mkdir -p $(DIST)
	$(SAVE) -o $(DIST)/image.tar $(IMAGE)
	$(SHIP)/bin/trivy image --quiet --input $(DIST)/image.tar --format cyclonedx --output $(DIST)/poolshift-$(VERSION).cdx.json
	rm $(DIST)/image.tar

sbom-packages: runtime $(SHIP_INSTALLED) ## Lists what the service's wheel brings along, as CycloneDX in dist/ (make dist first)
	VIRTUAL_ENV=$(RUNTIME) $(BIN)/uv pip install --quiet --no-deps $(DIST)/poolshift*-py3-none-any.whl
	cd $(SHIP) && bin/trivy rootfs --quiet --format cyclonedx --output $(abspath $(DIST))/poolshift-service-$(VERSION).cdx.json $(notdir $(RUNTIME))

notices: runtime ## Writes the licences of all runtime packages to dist/ (the image has its own copy)
	mkdir -p $(DIST)
	$(BIN)/python deploy/notices.py $(RUNTIME) > $(DIST)/THIRD-PARTY-NOTICES-$(VERSION)

runtime: $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(RUNTIME)
	VIRTUAL_ENV=$(RUNTIME) $(BIN)/uv pip sync --quiet --require-hashes requirements/base.txt $(EXTRAS:%=requirements/%.txt)
