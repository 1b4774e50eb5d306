#!/bin/sh
# Bring a machine to where `make demo` and `make test` can run: install what is missing, start the engine.
# usage: setup.sh demo|test
set -eu
purpose=${1:?usage: setup.sh demo|test}

say() { printf '%s\n' "set-up: $*" >&2; }
fail() { say "$*"; exit 1; }

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 && grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release
}

updated=
need() { # need PACKAGE... : install Debian packages, or say which are wanted
    can_install || fail "missing: $*; install it with this system's package manager (only Debian and Ubuntu as root are done for you)"
    say "installing $*"
    [ -n "$updated" ] || apt-get update -qq >/dev/null 2>&1 || apt-get update -qq >&2 || say "apt-get update had errors; trying on"
    updated=1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || fail "apt-get could not install $*"
}

python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail "Python 3.11 or newer is needed as python3"
python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
command -v go >/dev/null 2>&1 || [ -n "${KUBECONFIG:-}" ] || fail "Go is needed to build the development cluster; install it from https://go.dev/dl, or point KUBECONFIG at a cluster"

if ! docker info >/dev/null 2>&1; then
    if ! command -v dockerd >/dev/null 2>&1; then
        [ -z "${DOCKER_HOST:-}" ] || fail "the Docker Engine at DOCKER_HOST=$DOCKER_HOST does not answer; start it or unset DOCKER_HOST"
        need docker.io iptables
    fi
    [ "$(id -u)" = 0 ] || fail "Docker Engine does not answer; start it, or add this user to the docker group"
    say "starting Docker Engine"
    if [ -d /run/systemd/system ]; then
        systemctl start docker
    else
        setsid dockerd >>/var/log/dockerd.log 2>&1 </dev/null &
    fi
    for _ in $(seq 150); do
        docker info >/dev/null 2>&1 && break
        sleep 0.2
    done
    docker info >/dev/null 2>&1 || fail "Docker Engine did not come up within 30 s; see /var/log/dockerd.log"
fi
command -v mmdebstrap >/dev/null 2>&1 || docker image inspect debian:trixie-slim >/dev/null 2>&1 ||
    timeout 20 docker pull -q debian:trixie-slim >/dev/null 2>&1 || need mmdebstrap

if [ "$purpose" = test ]; then
    missing=
    command -v sshfs >/dev/null 2>&1 || missing="$missing sshfs"
    [ -x /usr/lib/openssh/sftp-server ] || missing="$missing openssh-sftp-server"
    ldconfig -p | grep -q 'libfuse3\.so' || missing="$missing libfuse3-3"
    command -v nft >/dev/null 2>&1 || missing="$missing nftables"
    command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
    command -v ping >/dev/null 2>&1 || missing="$missing iputils-ping"
    command -v docker-registry >/dev/null 2>&1 || missing="$missing docker-registry"
    # shellcheck disable=SC2086  # one word a package
    [ -z "$missing" ] || need $missing
fi
