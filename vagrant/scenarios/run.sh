#!/bin/sh
# Run the scenarios against the cluster that kubectl reaches, and print one line each. Exits 1 when one fails.
#   scenarios/run.sh                     all of them
#   scenarios/run.sh services node-loss  these
# PLACE names the command that can do things to machines (places/lab.sh, places/vagrant.sh); RESULTS a file to which
# `PLACE_NAME scenario result seconds` is appended.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
place_name=${PLACE_NAME:-cluster}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
chosen=" $* "
failures=0

for script in "$here"/[0-9]*.sh; do
  title=$(basename "$script" .sh | cut -c4-)
  case $chosen in '  ' | *" $title "*) ;; *) continue ;; esac
  begun=$(date +%s)
  code=0
  sh "$script" >"$log" 2>&1 || code=$?
  seconds=$(($(date +%s) - begun))
  case $code in
    0) result=passed ;;
    77) result=absent ;;
    *) result=FAILED failures=$((failures + 1)) ;;
  esac
  printf '%-24s %-7s %4d s\n' "$title" "$result" "$seconds"
  [ "$code" = 0 ] && [ -z "${VERBOSE:-}" ] || cat "$log"
  [ -z "${RESULTS:-}" ] || echo "$place_name $title $result $seconds" >>"$RESULTS"
done
[ "$failures" = 0 ]
