# Measures which lines the tests run, in pytest and in the processes that it starts: those of the unit tests alone, then
# those of all tests without timing. A process that is killed while it writes its figures is left out, with a warning.
# $1 is the folder of the commands; the arguments after it go to pytest.
bin=$(realpath "$1")
shift
export POOLSHIFT_ROOT="$(realpath .)"
export COVERAGE_FILE="$POOLSHIFT_ROOT/.cache/coverage/data"
rm -rf .cache/coverage
mkdir -p .cache/coverage

"$bin/coverage" run -m pytest -q tests/unit -n "$(nproc)" -m "not timing"
unit=$?
"$bin/coverage" combine --quiet
echo "The unit tests alone run $("$bin/coverage" report --format=total --fail-under=0) % of the lines"

"$bin/coverage" run -m pytest --timing=without -n $(($(nproc) * 2)) --dist loadscope --no-loadscope-reorder "$@"
all=$?
"$bin/coverage" combine --quiet --append
"$bin/coverage" report --skip-covered && [ $((unit + all)) -eq 0 ]
