#!/usr/bin/env bash
# Checks that no secret is in the trace log and the audit log of the whole test suite. tests/support/trace_log.rs has recorded the
# logs and the secrets. Runs after the suite; the first argument is the folder of the files.
set -euo pipefail
log=$1/trace.log audit=$1/audit.log secrets=$1/secrets
lines=$(wc -l <"$log") audited=$(wc -l <"$audit") known=$(sort -u "$secrets" | wc -l)
# An empty log or an empty list of secrets would pass the search below.
[ "$lines" -gt 10000 ] && [ "$audited" -gt 300 ] && grep -q '^TRACE' "$log" && [ "$known" -gt 300 ] || {
    echo "this is not the log of a whole suite: $lines lines, $audited of the audit log, $known secrets; run 'cargo test' first" >&2
    exit 1
}
if found=$(grep -aFf <(sort -u "$secrets") "$log" "$audit" | head -5) && [ -n "$found" ]; then
    echo "these log lines contain a secret:" >&2
    cut -c-400 <<<"$found" >&2
    exit 1
fi
echo "none of $known secrets is in the $lines lines of the log and the $audited lines of the audit log"
