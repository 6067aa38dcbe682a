# Prints the supported Pythons that are installed here, but for the one of the interpreter $1, if it is named: "3.13", for example.
[ -z "$1" ] || own=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13 3.14; do
  [ "$version" != "$own" ] && "python$version" -c '' 2>/dev/null && echo "$version"
done
exit 0
