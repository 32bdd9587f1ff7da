# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: Apache-2.0
# Names and checks shared by the scripts beside this file and in ../kernel.

cache=${GRANARY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/granary}
program=$(basename "$0")

say() { printf '%s: [%3ds] %s\n' "$program" "$SECONDS" "$*" >&2; }
die() { printf '%s: %s\n' "$program" "$*" >&2; exit 1; }

# need PROGRAM PACKAGE: stops with the name of the Debian package to install.
need() { command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"; }

# package_version PACKAGE: the version that apt would install; fails without one.
package_version() {
  local version
  version=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p')
  [[ -n $version && $version != "(none)" ]] || return 1
  printf '%s\n' "$version"
}

# download PACKAGE VERSION FOLDER: unpacks a Debian package of this machine's apt sources.
download() {
  (cd "$3" && apt-get -q -o APT::Sandbox::User=root -o Acquire::Retries=5 download "$1=$2" >log 2>&1) ||
    { cat "$3/log" >&2; die "cannot download $1 $2: is the mirror reachable, are the package lists fresh (apt-get update)?"; }
  dpkg-deb -x "$3"/*.deb "$3/root" || die "cannot unpack $1 $2"
}
