#!/usr/bin/env bash
# Checks that no secret is in any log of the test suite. Runs after the suite. The argument is the folder with
#
#   trace.log, audit.log, secrets   what tests/support/trace_log.rs has recorded: the logs of the tests in Rust, and each secret
#                                   that they used
#   hubs/                           what tests/support/logged has recorded: of each hub of the other tests its log and its banner
set -euo pipefail
log=$1/trace.log audit=$1/audit.log secrets=$1/secrets hubs=$1/hubs
lines=$(wc -l <"$log") audited=$(wc -l <"$audit") known=$(sort -u "$secrets" | wc -l)
# An empty log or an empty list of secrets would pass the search below.
[ "$lines" -gt 10000 ] && [ "$audited" -gt 300 ] && grep -q '^TRACE' "$log" && [ "$known" -gt 300 ] || {
    echo "this is not the log of a whole suite: $lines lines, $audited of the audit log, $known secrets; run 'cargo test' first" >&2
    exit 1
}
# fail_if_found LINES: LINES are those that contain a secret.
fail_if_found() {
    [ -n "$1" ] || return 0
    echo "these log lines contain a secret:" >&2
    cut -c-400 <<<"$1" >&2
    exit 1
}
fail_if_found "$(grep -aFf <(sort -u "$secrets") "$log" "$audit" | head -5)"
echo "none of $known secrets is in the $lines lines of the log and the $audited lines of the audit log"

shopt -s nullglob
logs=("$hubs"/*.log) banners=("$hubs"/*.banner)
[ ${#logs[@]} -gt 0 ] || { echo "no hub of the tests in other languages has run"; exit 0; }
lines=$(cat "${logs[@]}" | wc -l)
[ "$lines" -gt 500 ] && grep -q ' TRACE ' "${logs[@]}" || { echo "these are no logs at trace level: $lines lines" >&2; exit 1; }
# Keys and passwords: those of the banners, and those that the tests configure. Tokens and tickets: by their form.
known=$(
    sed -nE "s/.*X-API-Key: ([^']+).*/\1/p; s/.*#login=demo:(\w+).*/\1/p" "${banners[@]}"
    grep -rhoE "the (secret|API key) of the [A-Za-z ,]+, long enough" "$(dirname "${BASH_SOURCE[0]}")"/{support,sdk,go,java/src}
)
fail_if_found "$(grep -aFf <(sort -u <<<"$known") "${logs[@]}" | head -5)"
fail_if_found "$(grep -aE 'eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{8,}|[?&](token|access_token|ticket)=[^ &"]{8}' "${logs[@]}" | head -5)"
echo "none of $(sort -u <<<"$known" | wc -l) keys and passwords and no token is in the $lines lines of the logs of ${#logs[@]} hubs"
