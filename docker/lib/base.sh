# shellcheck shell=bash
# What every script of this folder says and asks.

say() {
    printf '%s\n' "$*"
}

fail() {
    say "$*" >&2
    exit 1
}

usage_error() {
    say "docker/${0##*/}: $*" >&2
    exit 2
}

has() {
    command -v "$1" >/dev/null
}

LOCK_SECONDS=900

# Holds the lock until this shell ends. The file may have been deleted while we waited: then it is not the lock.
lock() {
    while true; do
        mkdir -p "$(dirname "$1")"
        exec {LOCK}>>"$1"
        flock -n "$LOCK" || say "waiting for the process that holds $1" >&2
        flock -w "$LOCK_SECONDS" "$LOCK" || fail "another process holds $1 for $LOCK_SECONDS s"
        if [[ $1 -ef /dev/fd/$LOCK ]]; then return; fi
        exec {LOCK}>&-
    done
}
