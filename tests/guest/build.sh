#!/usr/bin/env bash
# Builds the test guest into OUTDIR: `vmlinuz` (Debian's cloud kernel, unpacked, not installed) and `initrd.img` (static
# busybox, the virtio and power-button modules, and ./init). The kernel package is downloaded once and kept in OUTDIR/cache;
# with the results newer than the sources there is nothing to do.
#
# usage: tests/guest/build.sh OUTDIR        (on Debian; run tests/setup/install.sh first)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTDIR}
mkdir -p "$out/cache"
out=$(cd "$out" && pwd)

fail() { echo "guest: error: $*" >&2; exit 1; }

up_to_date() { [ -s "$out/vmlinuz" ] && [ "$out/initrd.img" -nt "$here/init" ] && [ "$out/initrd.img" -nt "$here/build.sh" ]; }

# The order of insertion: each needs those before it. evdev and button report the power button.
# pvpanic tells the machine that the kernel has crashed.
modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk evdev button pvpanic pvpanic-pci)

kernel_package() { # the package with the current version in its name, that linux-image-cloud-amd64 stands for
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

download() { # download PACKAGE: into OUTDIR/cache, as ourselves, because apt's sandbox user may not be allowed to write there
    (cd "$out/cache" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$1")
}

fetch_kernel() { # leaves the unpacked package in OUTDIR/cache/kernel
    [ -e "$out/cache/kernel/complete" ] && return
    local package
    package=$(kernel_package) || true
    [ -n "$package" ] || fail "no linux-image-cloud-amd64 in the package lists: run 'apt-get update' (tests/setup/install.sh does)"
    echo "guest: downloading $package"
    rm -rf "$out/cache/kernel" "$out"/cache/*.deb
    # Package lists that are some weeks old name a kernel that is no longer there; only root can refresh them.
    download "$package" || { [ "$(id -u)" -eq 0 ] && apt-get update -qq && package=$(kernel_package) && download "$package"; } ||
        fail "cannot download $package: are the package lists current (apt-get update)?"
    dpkg-deb -x "$out"/cache/*.deb "$out/cache/kernel"
    rm "$out"/cache/*.deb
    touch "$out/cache/kernel/complete"
}

add_module() { # add_module NAME ROOT: copies it, unpacked, and notes its place in the order
    local found
    found=$(find "$out/cache/kernel" -name "$1.ko" -o -name "$1.ko.xz" | head -n 1)
    case $found in
        "") return ;; # built into this kernel
        *.xz) xz -dc "$found" >"$2/modules/$1.ko" ;;
        *) cp "$found" "$2/modules/$1.ko" ;;
    esac
    echo "$1" >>"$2/modules/order"
}

pack() {
    local root
    root=$(mktemp -d "$out/cache/root.XXXXXX")
    trap "rm -rf '$root'" EXIT
    mkdir -p "$root"/{bin,dev,proc,sys,modules}
    cp "$(command -v busybox)" "$root/bin/busybox"
    ldd "$root/bin/busybox" >/dev/null 2>&1 && fail "$(command -v busybox) is not static: install busybox-static"
    local applet
    for applet in cat dd echo head insmod ls mount poweroff reboot sed sh sleep sync tr wc; do
        ln -s busybox "$root/bin/$applet"
    done
    install -m 0755 "$here/init" "$root/init"
    : >"$root/modules/order"
    for module in "${modules[@]}"; do add_module "$module" "$root"; done
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$out/initrd.img.new"
    cp "$out"/cache/kernel/boot/vmlinuz-* "$out/vmlinuz.new"
    mv "$out/vmlinuz.new" "$out/vmlinuz"
    mv "$out/initrd.img.new" "$out/initrd.img"
}

exec 9>"$out/cache/lock"
flock 9 # several tests may want the guest at once; the first one builds it
up_to_date && exit 0
fetch_kernel
pack
echo "guest: built $out/vmlinuz and $out/initrd.img"
