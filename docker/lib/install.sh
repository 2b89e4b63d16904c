# shellcheck shell=bash
# What docker/servers and docker/tools install and unpack: Debian's packages, and the jars of Kafka and the registry.
# ROOT is the repository, DIST the folder of what is unpacked.

KAFKA_VERSION=4.1.1
REGISTRY_VERSION=2.6.13.Final
JAVA_MIN=17
MAVEN_PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.8.1
KAFKA_JARS=$DIST/kafka-$KAFKA_VERSION
REGISTRY_JARS=$DIST/apicurio-registry-$REGISTRY_VERSION

# Installs the Debian packages that these servers (and the build) miss.
provide_packages() {
    local name packages=()
    for name in "$@"; do
        case $name in
            kafka | registry)
                find_java >/dev/null || packages+=(default-jre-headless)
                [[ -d $KAFKA_JARS && -d $REGISTRY_JARS ]] || has mvn || packages+=(maven)
                ;;
            postgres) postgres_bin >/dev/null || packages+=(postgresql) ;;
            build)
                { has cc && has make; } || packages+=(build-essential)
                has pkg-config || packages+=(pkg-config)
                pkg-config --exists openssl 2>/dev/null || packages+=(libssl-dev)
                pkg-config --exists zlib 2>/dev/null || packages+=(zlib1g-dev)
                has shellcheck || packages+=(shellcheck)
                has curl || packages+=(curl)
                ;;
        esac
    done
    ((${#packages[@]} == 0)) || install_packages "$(printf '%s\n' "${packages[@]}" | sort -u | paste -sd ' ')"
}

install_packages() {
    local list=$1 as_root=()
    # A developer's sudo is not ours to use; a CI machine's is.
    if ((EUID != 0)) && [[ ${CI:-} == true ]] && sudo -n true 2>/dev/null; then as_root=(sudo -n); fi
    if ! has apt-get || ((EUID != 0 && ${#as_root[@]} == 0)); then
        fail "missing: $list; install with: sudo apt-get install -y --no-install-recommends $list"
    fi
    say "installing $list"
    # Debian would make and start a cluster of its own.
    [[ $list != *postgresql* ]] || "${as_root[@]}" sh -c 'mkdir -p /etc/postgresql-common &&
        cd /etc/postgresql-common && { grep -qs "^create_main_cluster" createcluster.conf ||
        echo "create_main_cluster = false" >>createcluster.conf; }'
    "${as_root[@]}" apt-get -q update
    # shellcheck disable=SC2086 # a list of packages
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout="$LOCK_SECONDS" $list </dev/null
}

# Unpacks what is missing, in a folder that gets its name when it is complete.
provide_dist() {
    local name
    for name in "$@"; do
        case $name in
            kafka) [[ -d $KAFKA_JARS ]] || unpack "$KAFKA_JARS" download_kafka ;;
            registry) [[ -d $REGISTRY_JARS ]] || unpack "$REGISTRY_JARS" download_registry ;;
        esac
    done
}

unpack() (
    lock "$DIST/.lock"
    [[ ! -d $1 ]] || exit 0 # somebody else has been faster
    rm -rf "$DIST"/.new.*
    new=$(mktemp -d "$DIST/.new.XXXXXX")
    say "unpacking ${1##*/} (a download, the first time)"
    cd "$new" || exit 1
    "$2"
    chmod 755 "$new"
    mv -T "$new" "$1"
)

download_kafka() {
    cp "$ROOT/docker/kafka/pom.xml" .
    maven "$MAVEN_PLUGIN:copy-dependencies" -Dkafka.version="$KAFKA_VERSION" -DincludeScope=runtime -DoutputDirectory=.
}

download_registry() {
    local artifact=io.apicurio:apicurio-registry-app:$REGISTRY_VERSION:tar.gz:all
    maven "$MAVEN_PLUGIN:unpack" -Dartifact="$artifact" -DoutputDirectory=.
}

maven() {
    local attempt
    for attempt in 1 2 3; do
        # A line for each file and its size is all that a person wants to see.
        if mvn -B -Dstyle.color=never "$@" </dev/null 2>&1 |
            sed -unE 's|.*Downloaded .*/([^/]+ \(.*)|  \1|p; /WARN|ERROR/p'; then
            return
        fi
        say "maven failed ($attempt of 3)"
        sleep "$attempt"
    done
    fail "maven could not download the servers"
}

# A Java that Kafka 4 runs on.
find_java() {
    local java version
    for java in "${JAVA_HOME:-/nowhere}/bin/java" "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
        [[ -x $java ]] || continue
        version=$("$java" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p')
        if ((${version:-0} >= JAVA_MIN)); then
            echo "$java"
            return
        fi
    done
    return 1
}

# The PostgreSQL of the version that made our data, or else the newest.
postgres_bin() {
    local version='*' bin
    [[ ! -e $STATE/postgres/PG_VERSION ]] || version=$(<"$STATE/postgres/PG_VERSION")
    # shellcheck disable=SC2086 # a pattern
    bin=$(printf '%s\n' /usr/lib/postgresql/$version/bin | sort -V | tail -n 1)
    [[ -x $bin/postgres ]] || bin=$(dirname "$(command -v postgres || echo /nowhere/postgres)")
    [[ -x $bin/initdb ]] && echo "$bin"
}
