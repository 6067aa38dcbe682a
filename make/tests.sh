# Runs the suite with the pytest $1 and the arguments after it: first the tests that do not decide by time, on all cores,
# then the others, one at a time. A few tests that fail are run once more, alone: what passes then is named as unsteady.
pytest=$1
shift
workers=$(($(nproc) * 2)) # since most tests wait for a process; with more, they take as long

# In the order of the files the run ends with the short modules of tests/unit, so no worker is left with a long one.
echo "1/2: the tests without timing, $workers at a time"
sh "$(dirname "$0")/steady.sh" "$pytest" without --timing=without \
  -n "$workers" --dist loadscope --no-loadscope-reorder "$@"
without=$?
case "$without $* " in
  [05]\ *) ;; # 5: the arguments select none of these tests
  [234]\ *) exit $without ;; # interrupted, broken, or asked for nonsense
  *" -x "* | *" --exitfirst "*) exit $without ;;
esac

# Whatever else runs on this machine has to end before time counts: the process TIMING_AFTER, if there is one.
while [ -n "${TIMING_AFTER:-}" ] && kill -0 "$TIMING_AFTER" 2>/dev/null; do sleep 1; done
echo "2/2: the tests with timing, one at a time"
sh "$(dirname "$0")/steady.sh" "$pytest" timing --timing=only --say-left-out "$@"
only=$?
case $without,$only in
  0,5) exit 0 ;;
  0,* | 5,*) exit $only ;;
  *) exit $without ;;
esac
