# Runs the suite with the pytest $1 and the arguments after it: first the tests that do not decide by time, on all cores,
# then the others, one at a time.
pytest=$1
shift
cores=$(nproc)

echo "1/2: the tests without timing, on $cores cores"
"$pytest" --timing=without -n "$cores" --dist loadscope "$@"
without=$?
case "$without $* " in
  [05]\ *) ;; # 5: the arguments select none of these tests
  *" -x "* | *" --exitfirst "*) exit $without ;;
esac

echo "2/2: the tests with timing, one at a time"
"$pytest" --timing=only --say-left-out "$@"
only=$?
case $without,$only in
  0,5) exit 0 ;;
  0,* | 5,*) exit $only ;;
  *) exit $without ;;
esac
