#!/usr/bin/env bash
# Installs, on Debian 12, the system packages that Holdfast's demo and tests use, and nothing that is there already.
# Says what it installs and why; needs root only for apt-get (sudo is used if we are not root). Safe to run again and
# again: with everything present it only looks, and is done in well under a second.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

say() { echo "setup: $*"; }
fail() { echo "setup: error: $*" >&2; exit 1; }

# What counts is that a tool runs, not that its package is listed: qemu's libraries can be broken by a half upgrade.
runs() { "$@" >/dev/null 2>&1; }
qemu_runs() { runs qemu-img --version && runs qemu-system-x86_64 --version; }
busybox_is_static() { dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q 'ok installed'; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo --preserve-env=DEBIAN_FRONTEND,LC_ALL "$@"
    else fail "root is needed for '$*', and there is no sudo: run 'tests/setup/install.sh' once as root"
    fi
}

packages=()
want() { # want PACKAGE WHY
    say "needs $1: $2"
    packages+=("$1")
}

installed_version() { dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null | sed -n 's/^installed //p'; }
available() { apt-cache madison "$1" | awk -v version="$2" '$3 == version { found = 1 } END { exit !found }'; }

# qemu-system-x86 and qemu-utils must come from the same release: each "Breaks" much older versions of the other, and
# asking for one alone makes apt remove the other. So both are named, at one version: that of whichever is installed
# if the sources still have its partner, otherwise Debian's own (which may be a downgrade of a backport).
matching_qemu_version() {
    local version
    for version in "$(installed_version qemu-utils)" "$(installed_version qemu-system-x86)"; do
        if [ -n "$version" ] && available qemu-system-x86 "$version" && available qemu-utils "$version"; then
            echo "$version"
            return
        fi
    done
    apt-cache policy qemu-system-x86 | awk '$1 == "Candidate:" { print $2 }'
}

want_qemu() {
    local version had
    version=$(matching_qemu_version)
    [ -n "$version" ] && [ "$version" != "(none)" ] || fail "no qemu-system-x86 in the package sources (see /etc/apt/sources.list.d)"
    had=$(installed_version qemu-utils)
    if [ -n "$had" ] && [ "$had" != "$version" ]; then
        say "qemu-utils goes from $had to $version, because the sources hold no qemu-system-x86 that goes with $had"
    fi
    want "qemu-system-x86=$version" "runs the applications' virtual machines"
    want "qemu-utils=$version" "qemu-img makes, snapshots and checks their volumes"
}

runs cpio --version || want cpio "packs the test guest's initramfs"
runs xz --version || want xz-utils "unpacks the test guest's kernel package and modules"
runs cc --version || want gcc "links Rust programs"
busybox_is_static || want busybox-static "is the test guest's user space"

# OpenZFS's modules are compiled for a guest (tests/zfsguest/build.sh): nothing of them is installed here. Without them the
# tests on ZFS are skipped, and all else works.
runs gcc-12 --version || want gcc-12 "compiles OpenZFS's modules for the inner test machine, as Debian's kernel was compiled"
openzfs_is_known() { apt-cache show --no-all-versions zfs-dkms; }
# What libzetta is compiled with: where they are, `make` builds with it, and where not, ZFS is driven by its command.
openzfs_headers_are_there() { pkg-config --exists libzfs; }
mke2fs_is_there() { [ -x /sbin/mke2fs ]; }
mke2fs_is_there || want e2fsprogs "makes the inner test machine's disks"
[ -x /sbin/mkfs.xfs ] || want xfsprogs "makes a file system that shares blocks, for snapshots of raw volumes"
runs strip --version || want binutils "makes the inner test machine's programs smaller"
runs setpriv --version || want util-linux "ends the inner test machine with whoever started it"

# The test guest's kernel is not installed, only downloaded and unpacked (tests/guest/build.sh); for that apt must know of it.
kernel_is_known() { apt-cache show --no-all-versions linux-image-cloud-amd64; }

if [ ${#packages[@]} -eq 0 ] && qemu_runs && runs kernel_is_known && runs openzfs_is_known && runs openzfs_headers_are_there; then
    exit 0
fi

command -v apt-get >/dev/null || fail "this is not Debian (no apt-get): install qemu-system-x86_64, qemu-img, busybox (static), cpio and xz yourself"
as_root apt-get update -qq || say "apt-get update had errors; going on with the package lists at hand"
qemu_runs || want_qemu
runs openzfs_is_known || as_root "$(dirname "$0")/contrib.sh" || say "warning: no OpenZFS in the package sources; the tests on it will be skipped"
[ ${#packages[@]} -eq 0 ] || as_root apt-get install --yes --quiet=2 --no-install-recommends --allow-downgrades "${packages[@]}"
if runs openzfs_is_known && ! runs openzfs_headers_are_there; then
    say "needs libzfslinux-dev and pkg-config: Holdfast speaks to ZFS by its library"
    as_root apt-get install --yes --quiet=2 --no-install-recommends libzfslinux-dev pkg-config ||
        say "warning: they cannot be installed; Holdfast will speak to ZFS by the zfs command only"
fi

qemu-img --version >/dev/null || fail "qemu-img does not run after the installation"
qemu-system-x86_64 --version >/dev/null || fail "qemu-system-x86_64 does not run after the installation"
busybox_is_static || fail "busybox-static is not there after the installation"
runs kernel_is_known || say "warning: no linux-image-cloud-amd64 in the package sources; the tests on a real guest will be skipped"
say "done: $(qemu-system-x86_64 --version | head -n 1); $(qemu-img --version | head -n 1)"
