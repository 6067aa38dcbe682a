# The dashboards, the alert rules and the tools that test them.

.PHONY: dashboards prometheus

##@ Watch

dashboards: $(INSTALLED) ## Makes the dashboards' JSON, for Grafana and the chart
	$(BIN)/python -W ignore -m dashboards.build

prometheus: ## Installs Prometheus and Alertmanager from Debian if they are missing (as root)
	@sh make/tools.sh prometheus

# With Node of the ship tools, or the machine's. Without npm, or a network, the test that needs it is skipped and says so.
$(SCHEMA): $(wildcard $(SCHEMA_SOURCE)/*)
	@export PATH="$(CURDIR)/$(SHIP)/bin:$$PATH" && mkdir -p $(@D) && cp -r $(SCHEMA_SOURCE)/. $(@D) && cd $(@D) && \
	npm ci --ignore-scripts --no-audit --no-fund --silent && \
	npx --no-install ts-json-schema-generator --tsconfig tsconfig.json --path grafana.ts --type Checked \
		--expose none --jsDoc none --out $(@F) || echo "$@ could not be made: it takes npm and a network"
