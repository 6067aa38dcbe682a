# Prints the interpreter for measurements: the first optimised one that is installed, with headers, else $1 with a warning.
for python in python3.13 python3.14 python3.12 python3.11 /usr/bin/python3 "$1"; do
  if command -v "$python" >/dev/null && "$python" bench/optimised.py 2>/dev/null; then
    "$python" -c 'import sys; print(sys.executable)'
    exit
  fi
done
echo "No Python here was built with optimisation, or none has headers (Debian: apt-get install python3 python3-dev): the figures are of a slower one" >&2
echo "$1"
