# The service on this machine.

.PHONY: run

##@ Run

run: $(INSTALLED) ## Serves on 127.0.0.1:8000; settings come from the environment
	@LM_MODEL=$${LM_MODEL-$$(grep -qs "^LM_MODEL=" .env || echo local)} exec $(BIN)/poolshift serve --reload
