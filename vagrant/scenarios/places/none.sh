#!/bin/sh
# Any cluster that kubectl reaches: nothing can be done to its machines.
case ${1:-} in
  can) exit 1 ;;
  *) echo "this place cannot: $*" >&2; exit 1 ;;
esac
