# The Helm chart.

HELM ?= $(firstword $(call first,helm) $(SHIP)/bin/helm4)

.PHONY: chart chart-files

# A chart cannot read files outside its folder: dashboards and rules are copied in, and git ignores the copies.
chart-files: dashboards
	rm -rf helm/files
	mkdir -p helm/files/dashboards helm/files/rules
	cp dashboards/*.json helm/files/dashboards/
	cp dashboards/rules/*.yaml helm/files/rules/

chart: chart-files ## Packages the chart with dashboards and rules as dist/poolshift-VERSION.tgz
	$(if $(wildcard $(HELM)),,$(MAKE) $(SHIP_INSTALLED))
	mkdir -p $(DIST)
	$(HELM) package helm --version $(VERSION) --app-version $(VERSION) --destination $(DIST)
