#!/usr/bin/env bash
# Installs the servers that `make bench` measures beside this one, where they are missing: beanstalkd, Redis, RabbitMQ
# and PostgreSQL from Debian's packages (needs root, or sudo), qrusty from crates.io (needs cargo; some ten minutes a version).
# They land in $QRUSTY_PEERS_DIR (default: bench/results/peers). The services that the packages start are stopped again:
# the benchmark starts its own, in directories of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

peers="${QRUSTY_PEERS_DIR:-$PWD/bench/results/peers}"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=()
command -v beanstalkd >/dev/null || packages+=(beanstalkd)
command -v redis-server >/dev/null || packages+=(redis-server)
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages+=(rabbitmq-server)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
command -v clang >/dev/null || packages+=(clang libclang-dev)
command -v go >/dev/null || [ -x /usr/local/go/bin/go ] || packages+=(golang-go)
if [ ${#packages[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || { echo "No apt-get here; install by hand: ${packages[*]}" >&2; exit 1; }
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${packages[@]}"
    for package in "${packages[@]}"; do
        case "$package" in
            beanstalkd | redis-server | rabbitmq-server | postgresql) as_root service "$package" stop || true ;;
        esac
    done
fi

command -v cargo >/dev/null || { echo "No cargo here; see https://rustup.rs, then run this again" >&2; exit 1; }
for version in 0.26.0 0.19.19; do
    if [ ! -x "$peers/qrusty-$version/bin/qrusty" ]; then
        cargo install qrusty --version "$version" --locked --root "$peers/qrusty-$version"
    fi
done
echo "The peers are in place. Next: make bench"
