# The dashboards, the alert rules and the tools that test them.

.PHONY: dashboards prometheus

##@ Watch

dashboards: $(INSTALLED) ## Writes the dashboards' JSON
	$(BIN)/python -W ignore -m dashboards.build

prometheus: ## Installs Prometheus and Alertmanager from Debian if they are missing (as root)
	@missing=; for tool in prometheus promtool prometheus-alertmanager; do command -v $$tool >/dev/null || missing=1; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" -ne 0 ]; then echo "as root: apt-get install prometheus prometheus-alertmanager"; exit 1; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -q && apt-get install -qy --no-install-recommends prometheus prometheus-alertmanager

# With Node of the ship tools, or the machine's. Without npm, or a network, the test that needs it is skipped and says so.
$(SCHEMA): $(wildcard $(SCHEMA_SOURCE)/*)
	@export PATH="$(CURDIR)/$(SHIP)/bin:$$PATH" && mkdir -p $(@D) && cp -r $(SCHEMA_SOURCE)/. $(@D) && cd $(@D) && \
	npm ci --ignore-scripts --no-audit --no-fund --silent && \
	npx --no-install ts-json-schema-generator --tsconfig tsconfig.json --path grafana.ts --type Checked \
		--expose none --jsDoc none --out $(@F) || echo "$@ could not be made: it takes npm and a network"
