#!/usr/bin/env bash
# Checks that no secret is in any log of the test suite. Runs after the suite. The argument is the folder with
#
#   trace.log, secrets   what tests/support/trace_log.rs has recorded: the log of the tests in Rust, and each secret they used
#   hubs/                what tests/support/logged has recorded: of each hub of the other tests its log and its banner
set -euo pipefail
log=$1/trace.log secrets=$1/secrets hubs=$1/hubs
lines=$(wc -l <"$log") known=$(sort -u "$secrets" | wc -l)
# An empty log or an empty list of secrets would pass the search below.
[ "$lines" -gt 10000 ] && grep -q '^TRACE' "$log" && [ "$known" -gt 300 ] || {
    echo "this is not the log of a whole suite: $lines lines, $known secrets; run 'cargo test' first" >&2
    exit 1
}
fail() {
    echo "these log lines contain a secret:" >&2
    cut -c-400 <<<"$1" >&2
    exit 1
}
if found=$(grep -aFf <(sort -u "$secrets") "$log" | head -5) && [ -n "$found" ]; then
    fail "$found"
fi
echo "none of $known secrets is in the $lines lines of the log"

shopt -s nullglob
logs=("$hubs"/*.log) banners=("$hubs"/*.banner)
[ ${#logs[@]} -gt 0 ] || { echo "no hub of the tests in other languages has run"; exit 0; }
lines=$(cat "${logs[@]}" | wc -l)
grep -q ' TRACE ' "${logs[@]}" && [ "$lines" -gt 1000 ] || { echo "these are not logs at trace level: $lines lines" >&2; exit 1; }
# Keys and passwords: those of the banners, and those that the tests configure. Tokens: by their form.
known=$(
    grep -ahoE "X-API-Key: [^']+|#login=demo:\w+" "${banners[@]}" | sed -E "s/^X-API-Key: |^#login=demo://" || true
    grep -rhoE "the (secret|API key) of the [A-Za-z ,]+, long enough" "$(dirname "${BASH_SOURCE[0]}")"/{support,sdk,go,java/src}
)
tokens='eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{8,}'
if found=$(grep -aFf <(sort -u <<<"$known") "${logs[@]}" | head -5) && [ -n "$found" ]; then
    fail "$found"
fi
if found=$(grep -aE "$tokens|[?&](token|access_token|ticket)=[^ &\"]{8}" "${logs[@]}" | head -5) && [ -n "$found" ]; then
    fail "$found"
fi
echo "none of $(sort -u <<<"$known" | wc -l) keys and passwords and no token is in the $lines lines of the logs of ${#logs[@]} hubs"
