# Runs the suite with the pytest $1 and the arguments after it: first the tests that do not decide by time, on all cores,
# then the others, one at a time. TIMING=without or TIMING=only leaves one of both out.
pytest=$1
shift
workers=$(($(nproc) * 2)) # since most tests wait for a process

without=5 # what pytest ends with if the arguments select no test
if [ "${TIMING:-}" != only ]; then
  # In the order of the files the run ends with the short modules of tests/unit, so no worker is left with a long one.
  echo "1/2: the tests without timing, $workers at a time"
  "$pytest" --timing=without -n "$workers" --dist loadscope --no-loadscope-reorder "$@"
  without=$?
  [ "${TIMING:-}" != without ] || exit $without
  case "$without $* " in
    [05]\ *) ;;
    *" -x "* | *" --exitfirst "*) exit $without ;;
  esac
fi

echo "2/2: the tests with timing, one at a time"
"$pytest" --timing=only --say-left-out "$@"
only=$?
case $without,$only in
  0,5) exit 0 ;;
  0,* | 5,*) exit $only ;;
  *) exit $without ;;
esac
