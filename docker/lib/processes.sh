# shellcheck shell=bash
# Processes that outlive this shell, for docker/servers: start them, know them again, stop them. STATE is the folder of
# their logs and pid files.

# Starts a process of its own session, which holds no file of ours open, and leaves its pid file.
spawn() {
    local name=$1 log
    shift
    log=$(log_of "$name")
    mkdir -p "$STATE/log" "$STATE/run"
    [[ ! -e $log ]] || mv -f "$log" "$log.1"
    rm -f "$STATE/run/$name"
    (
        close_inherited
        ulimit -n "$(ulimit -Hn)" || true
        cd /
        launch "$name" setsid "$@"
    ) </dev/null >"$log" 2>&1 &
    until [[ -e $STATE/run/$name || ! -d /proc/$! ]]; do sleep 0.01; done
}

# Becomes the command, and leaves its pid file.
launch() {
    local name=$1 pid=$BASHPID # which is another one inside $()
    shift
    echo "$pid $(start_time "$pid") $STATE" >"$STATE/run/$name.new"
    mv -f "$STATE/run/$name.new" "$STATE/run/$name"
    exec "$@"
}

close_inherited() {
    local fd
    for fd in "/proc/$BASHPID/fd/"*; do
        fd=${fd##*/}
        ((fd <= 2)) || exec {fd}>&-
    done
}

# A pid file holds pid, start time and state folder. Only if all three still hold is the process ours: the number may
# have gone to another one, and the folder may be a copy of one whose servers run.
alive() {
    local pid started folder
    read -r pid started folder 2>/dev/null <"$STATE/run/$1" || return 1
    [[ $folder == "$STATE" && -n $started && $(start_time "$pid") == "$started" ]]
}

pid_of() {
    cut -d ' ' -f 1 "$STATE/run/$1"
}

# The start time of a process in ticks since boot: field 22 of its stat, behind a name that may hold anything. Nothing
# for a zombie whose threads (field 20) have all ended: it only waits for its parent.
start_time() {
    local stat fields
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} == [ZX] ]] && ((fields[17] <= 1)) || echo "${fields[19]}"
}

stop_servers() {
    local signal=$1
    shift
    in_parallel stop_one "$@" "$signal"
}

stop_one() {
    local name=$1 signal=$2
    if alive "$name"; then
        # For PostgreSQL SIGTERM would wait for every client; SIGINT is its fast shutdown.
        [[ $name-$signal != postgres-TERM ]] || signal=INT
        send "$signal" "$name"
        gone "$name" "$STOP_SECONDS" || send KILL "$name"
        gone "$name" "$STOP_SECONDS" || fail "$name: pid $(pid_of "$name") does not end"
        say "${name#keeper-of-}: stopped"
    fi
    rm -f "$STATE/run/$name"
}

send() {
    kill -s "$1" "$(pid_of "$2")" 2>/dev/null || true
    [[ $2-$1 != postgres-KILL ]] || kill_orphans
}

# The backends of a PostgreSQL that was killed work on for a while, and keep its successor from starting. They are ours:
# the binary, and our data folder as the working folder.
kill_orphans() {
    local process
    for process in /proc/[0-9]*; do
        if [[ $process/cwd -ef $STATE/postgres && $(readlink "$process/exe") == */postgres ]]; then
            kill -s KILL "${process#/proc/}" 2>/dev/null || true
        fi
    done
}

gone() {
    local name=$1 began=$SECONDS
    while alive "$name"; do
        ((SECONDS - began <= $2)) || return 1
        sleep 0.05
    done
}

# Who keeps a process running writes into its log.
log_of() {
    echo "$STATE/log/${1#keeper-of-}.log"
}

# Runs a function for each name at once (what follows the names of servers goes to each call); fails if one fails.
in_parallel() {
    local function=$1 name pids=() names=() rest=() failed=0 pid
    shift
    for name in "$@"; do
        case $name in
            kafka | kafka[1-3] | registry | postgres | millrace | keeper-of-millrace) names+=("$name") ;;
            *) rest+=("$name") ;;
        esac
    done
    for name in "${names[@]}"; do
        "$function" "$name" "${rest[@]}" &
        pids+=("$!")
    done
    for pid in "${pids[@]}"; do
        wait "$pid" || failed=1
    done
    return "$failed"
}
