# The console: the browser that its tests drive, and the pictures of its pages.

.PHONY: browser screenshots

##@ Console

browser: ## Installs Chromium from Debian if it is missing (as root)
	@sh make/tools.sh browser

screenshots: $(INSTALLED) ## Takes the pictures of the console's pages in docs/pictures/console (needs Chromium)
	$(BIN)/python -m tests.console.screenshots
