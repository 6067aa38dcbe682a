# Installs those of Debian's programs and libraries in make/tools.txt that are missing: of the groups named, or of all.
# With --if-possible it goes on without what it cannot install, as the tests that need it are skipped and say so.
is_optional=
if [ "$1" = --if-possible ]; then is_optional=yes; shift; fi

is_there() {
  case $1 in
    *.so.*) PATH=$PATH:/usr/sbin ldconfig -p | grep -q "$1" ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Prints the groups that lack something, or the missing packages of a group $1.
missing() {
  grep -v '^#' make/tools.txt | while read -r name group packages; do
    is_there "$name" && continue
    if [ -z "$1" ]; then echo "$group"; elif [ "$group" = "$1" ]; then echo "$packages"; fi
  done | sort -u
}

can_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

updated=
for group in ${*:-$(missing)}; do
  packages=$(missing "$group" | tr '\n' ' ')
  packages=${packages% }
  [ -n "$packages" ] || continue
  if ! can_install; then
    [ -n "$is_optional" ] && continue
    echo "as root: apt-get install $packages" >&2
    exit 1
  fi
  echo "Installing Debian's packages for the tests of the group $group: $packages"
  export DEBIAN_FRONTEND=noninteractive
  [ -n "$updated" ] || apt-get update -qq >/dev/null 2>&1
  updated=yes
  # shellcheck disable=SC2086 # packages are words
  if said=$(apt-get install -qy --no-install-recommends $packages 2>&1); then continue; fi
  [ -n "$is_optional" ] || { echo "$said" >&2; exit 1; }
  echo "They cannot be installed: those tests are skipped"
done
