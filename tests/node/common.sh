# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# Names and checks shared by the scripts beside this file.

node_src=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repo=$(cd "$node_src/../.." && pwd -P)
run_dir=${GRANARY_NODE_DIR:-$repo/build/node}
cache=${GRANARY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/granary}
virtiofsd=/usr/lib/qemu/virtiofsd

say() { printf 'node: [%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() { printf 'node: %s\n' "$*" >&2; exit 1; }

# need PROGRAM PACKAGE: stops with the name of the Debian package to install.
need() {
  command -v "$1" >/dev/null ||
    die "$1 is missing: apt-get install $2 (all of them: tests/node/host-packages.txt)"
}

packages() { sed 's/#.*//; /^[[:space:]]*$/d' "$node_src/packages.txt"; }

# The cache folder of the image that this checkout and this host's package lists ask for.
image_dir() {
  local hash
  hash=$({
    packages
    cat "$node_src/build" "$node_src/initrd-init"
    apt-cache policy linux-image-cloud-amd64 systemd containerd libgrpc++1.51 2>/dev/null |
      sed -n '/^[^ ]/p; /Candidate:/p'
  } | sha256sum | cut -c1-16)
  printf '%s/node-%s\n' "$cache" "$hash"
}

# The pid of this checkout's QEMU; fails if none runs.
node_pid() {
  local pid
  pid=$(cat "$run_dir/qemu.pid" 2>/dev/null) || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$run_dir/root.qcow2" || return 1
  echo "$pid"
}
