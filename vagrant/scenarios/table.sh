#!/bin/sh
# Print what several runs appended to RESULTS as one table: a line a scenario, a column a place. A second attempt counts.
#   scenarios/table.sh RESULTS...
set -eu
here=$(cd "$(dirname "$0")" && pwd)
{ for script in "$here"/[0-9]*.sh; do echo "= $(basename "$script" .sh | cut -c4-)"; done; sort -s -k1,1 "$@"; } | awk '
$1 == "=" { titles[++lines] = $2; next }
{ result[$2, $1] = $3 == "absent" ? "not here" : $3 " " $4 " s"; if (!($1 in seen)) { seen[$1] = 1; places[++count] = $1 } }
END {
  printf "%-24s", "SCENARIO"; for (i = 1; i <= count; i++) printf "%-20s", toupper(places[i]); print ""
  for (n = 1; n <= lines; n++) { printf "%-24s", titles[n]
    for (i = 1; i <= count; i++) printf "%-20s", ((titles[n], places[i]) in result) ? result[titles[n], places[i]] : "not run"
    print "" }
}'
