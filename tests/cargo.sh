#!/usr/bin/env bash
# Runs the tests in Rust. The argument is the folder with what tests/support/trace_log.rs records.
#
# Many of them start processes and wait for them, and CI runs them beside other parts on busy cores. So up to three tests that
# fail are run again, three times each, one at a time: those that pass every time are listed as flaky, any other failure counts.
set -uo pipefail
logs=$1
records=$(mktemp -d)
output=$records/output
trap 'rm -rf "$records"' EXIT

# run ARGUMENT...: runs `cargo test` with these arguments; its output is also in $output.
run() {
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$output"
    return "${PIPESTATUS[0]}"
}
# keep_records: adds what the last run recorded to what the ones before did, for tests/log.sh.
keep_records() {
    local name
    for name in trace.log audit.log secrets; do
        [ ! -e "$logs/$name" ] || { cat "$logs/$name" >>"$records/$name" && cp "$records/$name" "$logs/$name"; }
    done
}
# names RESULT: the tests with this result.
names() {
    sed -n "s/^test \(.*\) \.\.\. $1\$/\1/p" "$output" | sort -u
}

# Most tests wait, for servers or for time to pass.
RUST_TEST_THREADS=$((3 * $(nproc))) run
status=$?
[ $status != 0 ] || exit 0
mapfile -t failed < <(names FAILED)
# A binary without a result was killed or does not compile.
started=$(grep -cE '^ +(Running|Doc-tests) ' "$output")
ended=$(grep -c '^test result: ' "$output")
[ ${#failed[@]} -gt 0 ] && [ ${#failed[@]} -le 3 ] && [ "$started" = "$ended" ] || exit $status
keep_records
for number in 1 2 3; do
    printf '\n== failed tests again, %s of 3: %s\n' $number "${failed[*]}"
    RUST_TEST_THREADS=1 run -- --exact "${failed[@]}" || exit $status
    keep_records
    # All of them have run.
    [ "$(names ok | wc -l)" = ${#failed[@]} ] || exit $status
done
printf 'flaky: %s\n' "${failed[@]}"
