# Prints one line if the interpreter $1 cannot make the virtual environment, and nothing if it can.
oldest=11
found=$("$1" --version 2>&1) || { echo "Poolshift needs Python 3.$oldest or newer, and '$1' cannot be run; name another: make PYTHON=python3.$oldest"; exit; }
minor=$(expr "$found" : 'Python 3\.\([0-9]*\)')
if [ "${minor:-0}" -lt $oldest ]; then
  echo "Poolshift needs Python 3.$oldest or newer, and '$1' is $found; name another: make PYTHON=python3.$oldest"
elif ! "$1" -c 'import ensurepip' 2>/dev/null; then
  echo "$found cannot make virtual environments; on Debian: apt-get install python3-venv"
fi
