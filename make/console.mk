# The console: the browser that its tests drive, and the pictures of its pages.

.PHONY: browser screenshots

##@ Console

browser: ## Installs Chromium from Debian if it is missing (as root)
	@if command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" -ne 0 ]; then echo "as root: apt-get install chromium"; exit 1; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -q && apt-get install -qy --no-install-recommends chromium fonts-dejavu-core

screenshots: $(INSTALLED) ## Takes the pictures of the console's pages in docs/pictures/console (needs Chromium)
	$(BIN)/python -m tests.console.screenshots
