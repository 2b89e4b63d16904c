# shellcheck shell=bash
# The brokers, for docker/servers: one, named kafka, or three, named kafka1, kafka2 and kafka3. Each is broker and
# controller. STATE is the folder of their data.

# Sets BROKER_NAMES and BROKERS. Of how many brokers there are data, so many there are; else as many as are asked for.
count_brokers() {
    local count own
    count=$(stored_brokers)
    count=${count:-${MILLRACE_BROKER_COUNT:-1}}
    case $count in
        1) BROKER_NAMES=(kafka) ;;
        3) BROKER_NAMES=(kafka1 kafka2 kafka3) ;;
        *) usage_error "MILLRACE_BROKER_COUNT (BROKERS of make) is 1 or 3, not '$count'" ;;
    esac
    BROKERS=${MILLRACE_BROKERS:-}
    OWN_BROKERS=$(own_addresses "$count")
    # An environment from before the number changed names brokers of ours all the same.
    for own in "" "$(own_addresses 1)" "$(own_addresses 3)"; do
        [[ $BROKERS != "$own" ]] || BROKERS=$OWN_BROKERS
    done
}

stored_brokers() {
    if [[ -e $STATE/kafka-cluster ]]; then echo 3; elif [[ -e $STATE/kafka ]]; then echo 1; fi
}

# What is asked for has to fit what is there: replicas do not move by themselves.
require_asked_brokers() {
    local asked=${MILLRACE_BROKER_COUNT:-} stored
    [[ -n $asked ]] || return 0
    [[ $asked == [13] ]] || usage_error "MILLRACE_BROKER_COUNT (BROKERS of make) is 1 or 3, not '$asked'"
    ! given kafka || fail "brokers: $asked of our own are asked for, but MILLRACE_BROKERS names $BROKERS: unset one of the two"
    stored=$(stored_brokers)
    [[ ${stored:-$asked} == "$asked" ]] ||
        fail "brokers: the data in $STATE were made by $stored, and $asked are asked for: do not say how many, to go on with them, or delete them by 'docker/servers clean'"
}

own_addresses() {
    local number addresses=()
    for ((number = 1; number <= $1; number++)); do
        addresses+=("$(own_address "kafka$number")")
    done
    comma_separated "${addresses[@]}"
}

own_address() {
    echo "127.0.0.1:$(broker_port "$(broker_number "$1")")"
}

comma_separated() (
    IFS=,
    echo "$*"
)

# The first is on the ports that are set, each further one two above the one before.
broker_port() {
    echo $((KAFKA_PORT + 2 * ($1 - 1)))
}

controller_port() {
    echo $((CONTROLLER_PORT + 2 * ($1 - 1)))
}

# Of kafka, or of kafka1 to kafka3.
broker_number() {
    local number=${1#kafka}
    echo "${number:-1}"
}

launch_kafka() {
    local data=$STATE/$1 settings=$STATE/$1/server.properties java format=() memory=(-Xms256m -Xmx1g)
    java=$(find_java)
    mkdir -p "$data"
    broker_settings "$1" >"$settings"
    if [[ $1 == kafka ]]; then
        format=(-t "$(random_id)" --standalone)
    else
        format=(-t "$(<"$STATE/kafka-cluster")")
        memory=(-Xms128m -Xmx512m)
    fi
    local jvm=(
        "$java" "${JVM_OPTIONS[@]}" "${memory[@]}" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true
        -Dlog4j2.configurationFile="$ROOT/docker/kafka/log4j2.properties" -cp "$KAFKA_JARS/*"
    )
    if [[ ! -e $data/formatted ]]; then
        rm -rf "$data/log"
        "${jvm[@]}" kafka.tools.StorageTool format "${format[@]}" -c "$settings" \
            >"$(log_of "$1")" 2>&1 || return 0 # the log is shown when nothing answers
        touch "$data/formatted"
    fi
    spawn "$1" "${jvm[@]}" kafka.Kafka "$settings"
}

broker_settings() {
    local number listeners
    number=$(broker_number "$1")
    listeners=PLAINTEXT://127.0.0.1:$(broker_port "$number"),CONTROLLER://127.0.0.1:$(controller_port "$number")
    cat "$ROOT/docker/kafka/server.properties"
    if [[ $1 == kafka ]]; then
        echo "controller.quorum.bootstrap.servers=127.0.0.1:$(controller_port 1)"
    else
        cat "$ROOT/docker/kafka/three.properties"
        echo "node.id=$number"
        # A fixed quorum, so that the ports may change over the same data.
        echo "controller.quorum.voters=$(quorum)"
    fi
    echo "listeners=$listeners"
    echo "advertised.listeners=$listeners"
    echo "log.dirs=$STATE/$1/log"
    # Of a setting that is there twice, Kafka takes the last.
    [[ -z ${MILLRACE_KAFKA_SETTINGS:-} ]] || cat "$MILLRACE_KAFKA_SETTINGS"
}

quorum() {
    local number voters=()
    for number in 1 2 3; do
        voters+=("$number@127.0.0.1:$(controller_port "$number")")
    done
    comma_separated "${voters[@]}"
}

# Three brokers have to agree on the id of their cluster before any of them starts.
provide_cluster_id() {
    [[ ${#BROKER_NAMES[@]} == 1 || -e $STATE/kafka-cluster ]] && return
    random_id >"$STATE/kafka-cluster.new"
    mv "$STATE/kafka-cluster.new" "$STATE/kafka-cluster"
}

# 16 random bytes as Kafka writes a cluster id.
random_id() {
    head -c 16 /dev/urandom | base64 | tr '+/' 'Zz' | tr -d =
}

# Sends an ApiVersions request (key 18, version 0, correlation 1, no client id); the broker listens only when it serves.
kafka_answers() (
    exec 3<>"/dev/tcp/127.0.0.1/$(broker_port "$(broker_number "$1")")" || exit 1
    printf '\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff' >&3
    answer=$(timeout 2 head -c 10 <&3 | od -An -v -tx1 | tr -d ' \n')
    [[ ${answer:8} == 000000010000 ]] # correlation 1, no error
) 2>/dev/null
