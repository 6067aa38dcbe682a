# Runs the pytest $1 with the arguments after the run's name $2. If at most five tests fail, they are run once more, one
# at a time: the exit code is that of the second run, and a test that passes then is named as unsteady.
pytest=$1
cache=$PWD/.cache/pytest/$2
shift 2
failed=$cache/v/cache/lastfailed

rm -f "$failed"
"$pytest" -o cache_dir="$cache" "$@"
code=$?
[ $code -eq 1 ] || exit $code
count=$(grep -c ': true' "$failed")
[ "$count" -le 5 ] || exit $code
# A run that stops at a failure has left tests out: what passes alone would not make it whole.
case " $* " in *" -x "* | *" --exitfirst "* | *" --maxfail"*) exit $code ;; esac

unsteady=$(cat "$failed")
echo "Once more, alone: the $count that failed"
"$pytest" -o cache_dir="$cache" --last-failed --last-failed-no-failures=none "$@" -n 0
code=$?
[ $code -eq 0 ] && printf 'UNSTEADY: failed, and passed alone:\n%s\n' "$unsteady"
exit $code
