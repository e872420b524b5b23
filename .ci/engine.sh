# shellcheck shell=bash
# A Docker engine of our own, and a base image of Debian 12 with Python 3.11, on a machine that reaches no image registry.
#   . .ci/engine.sh; engine_up FOLDER; docker build --network=host ...; engine_down
# The engine has no bridge: containers and builds share the machine's network (--network=host), and nothing is published.
# Wants root and Debian: it installs docker.io, whose client builds with BuildKit, and debootstrap, which makes the base.
BASE_IMAGE=localhost/python:3.11

engine_up() {
  local folder
  folder=$(realpath -m "$1")
  mkdir -p "$folder/bin" && _install_engine || return 1
  # Another client, found earlier on PATH, may not be able to build.
  ln -sf /usr/bin/docker "$folder/bin/docker"
  export PATH="$folder/bin:$PATH" DOCKER_HOST="unix://$folder/docker.sock" DOCKER_BUILDKIT=1
  /usr/sbin/dockerd --iptables=false --ip6tables=false --ip-forward=false --bridge=none \
    --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" -H "$DOCKER_HOST" \
    >"$folder/dockerd.log" 2>&1 &
  ENGINE_PID=$! ENGINE_FOLDER=$folder
  for _ in $(seq 300); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$ENGINE_PID" 2>/dev/null || break
    sleep 0.2
  done
  echo "the Docker engine does not start: $(tail -n 3 "$folder/dockerd.log")" >&2
  return 1
}

_install_engine() {
  [ -x /usr/sbin/dockerd ] && command -v debootstrap >/dev/null && return
  # Debian's package would start an engine as a service.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
  (apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends \
    docker.io debootstrap) >/dev/null 2>&1
  local code=$?
  [ "$code" = 0 ] || echo "docker.io and debootstrap cannot be installed" >&2
  rm -f /usr/sbin/policy-rc.d
  return "$code"
}

base_image() {
  local root=$ENGINE_FOLDER/root certificates=/etc/ssl/certs/ca-certificates.crt
  /usr/sbin/debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root" \
    >"$ENGINE_FOLDER/debootstrap.log" || return 1
  # Where packages come through a proxy of the machine's own, its certificate is among the machine's.
  cp "$certificates" "$root$certificates"
  ln -s python3 "$root/usr/bin/python"
  rm -rf "$root"/usr/lib/python3*/EXTERNALLY-MANAGED "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" --numeric-owner -c . |
    docker import -c "ENV LANG=C.UTF-8 PIP_CERT=$certificates SSL_CERT_FILE=$certificates" - "$BASE_IMAGE" >/dev/null
  rm -rf "$root"
}

engine_down() {
  [ -n "${ENGINE_PID:-}" ] || return 0
  kill "$ENGINE_PID" 2>/dev/null || true
  wait "$ENGINE_PID" 2>/dev/null || true
  umount "$ENGINE_FOLDER/exec/netns/default" 2>/dev/null || true
}
