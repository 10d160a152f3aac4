#!/usr/bin/env bash
# Nothing secret is in what the whole suite has logged at trace level: `tests/support/trace_log.rs` has kept both. Runs after
# the suite; the folder is its first argument.
set -euo pipefail
log=$1/trace.log secrets=$1/secrets
lines=$(wc -l <"$log") known=$(sort -u "$secrets" | wc -l)
# A log that is not there, or a suite that marked nothing, would pass too.
[ "$lines" -gt 10000 ] && grep -q '^TRACE' "$log" && [ "$known" -gt 300 ] || {
    echo "not the log of a whole suite: $lines lines, $known secrets" >&2
    exit 1
}
if found=$(grep -aFf <(sort -u "$secrets") "$log" | head -5) && [ -n "$found" ]; then
    echo "a secret is in the log:" >&2
    cut -c-400 <<<"$found" >&2
    exit 1
fi
echo "$known secrets, none of them in $lines lines of log"
