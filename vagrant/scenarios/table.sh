#!/bin/sh
# Print what several runs appended to RESULTS as one table: a line a scenario, a column a place.
awk '
{ result[$2, $1] = $3 == "absent" ? "-" : $3 " " $4 "s"; if (!($1 in seen)) { seen[$1] = 1; places[++count] = $1 }
  if (!($2 in known)) { known[$2] = 1; titles[++lines] = $2 } }
END {
  printf "%-24s", "SCENARIO"; for (i = 1; i <= count; i++) printf "%-22s", toupper(places[i]); print ""
  for (n = 1; n <= lines; n++) { printf "%-24s", titles[n]
    for (i = 1; i <= count; i++) printf "%-22s", ((titles[n], places[i]) in result) ? result[titles[n], places[i]] : "-"
    print "" }
}' "$@"
