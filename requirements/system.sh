#!/bin/sh
# Libraries of the system that vLLM's CPU build wants: libnuma it cannot do without, tcmalloc makes it faster.
# As root, installs what is missing (Debian, Ubuntu); else says what to install.
set -eu
PACKAGES="libnuma1 libtcmalloc-minimal4"
PATH=$PATH:/sbin:/usr/sbin

has() { ldconfig -p | grep -q "$1"; }

if has libnuma.so.1 && has libtcmalloc_minimal.so.4; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  # shellcheck disable=SC2086
  apt-get -qq install --yes --no-install-recommends $PACKAGES >/dev/null
  rm -rf /var/lib/apt/lists/*
elif has libnuma.so.1; then
  echo "vLLM is faster on a CPU with tcmalloc: sudo apt-get install $PACKAGES" >&2
else
  echo "vLLM's CPU build needs libnuma: sudo apt-get install $PACKAGES" >&2
  exit 1
fi
