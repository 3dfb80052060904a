# Sourced by the scripts beside it: finds mcpload, makes a folder for what they write, and runs each part.
#
# MCPLOAD   the program [default: on the PATH, else built from here]
# OUT       the folder for reports [default: mcpload-<session>-<time> where the script is called]
# PID       of a gateway on this machine: its CPU time and memory go into the reports
# METAMCP_KEY, or a file named by KEY_FILE: the API key
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
failed=0

usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" >&2
    exit 64
}

# begin NAME: after the arguments were read.
begin() {
    if [[ -z ${MCPLOAD-} ]]; then
        MCPLOAD=$(command -v mcpload) || {
            echo "building mcpload" >&2
            (cd "$here/.." && cargo build --quiet --release -p mcpload) || exit 69
            MCPLOAD=${CARGO_TARGET_DIR:-$here/../target}/release/mcpload
        }
    fi
    OUT=${OUT:-mcpload-$1-$(date +%Y%m%d-%H%M%S)}
    mkdir -p "$OUT" || exit 74
    common=()
    [[ -z ${KEY_FILE-} ]] || common+=(--key-file "$KEY_FILE")
    [[ -z ${PID-} ]] || common+=(--pid "$PID")
}

# part NAME WHAT SCENARIO URL ARGUMENTS...: one run or sweep, with its reports.
part() {
    local name=$1 what=$2
    shift 2
    echo "== $name" >&2
    "$MCPLOAD" "$what" "$@" ${common[@]+"${common[@]}"} --json "$OUT/$name.json" --html "$OUT/$name.html" |
        tee "$OUT/$name.txt"
    local status=${PIPESTATUS[0]}
    ((status == 0)) || failed=1
    return "$status"
}

# The end of every session.
finish() {
    echo "reports are in $OUT" >&2
    ((failed == 0)) || echo "FAILED: see above" >&2
    exit "$failed"
}
