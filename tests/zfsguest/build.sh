#!/usr/bin/env bash
# Builds the inner machine: a guest in which Holdfast itself runs, on real OpenZFS. OUTDIR gets
#   vmlinuz     Debian's cloud kernel, unpacked, not installed
#   base.img    an initramfs: busybox, the loader of programs, modules for virtio and the network, and ./init
#   tools/      bin and lib: qemu-img, qemu-io and mkfs.ext4, for the disk of programs; an initramfs is unpacked at every boot
#   zfs.img     a second one, to go behind it: the modules of OpenZFS, zfs, zpool, their libraries, and udev for /dev/zvol
#   zfs.missing instead of zfs.img: one line that says why there is none
# The modules are compiled here, from Debian's contrib, against the headers of exactly that kernel, in OUTDIR/cache: three
# to five minutes, once. Nothing is installed and no module is loaded on this machine.
#
# usage: tests/zfsguest/build.sh OUTDIR       (on Debian 12; run tests/setup/install.sh first)
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTDIR}
mkdir -p "$out/cache"
out=$(cd "$out" && pwd)
cache=$out/cache
tree=$cache/tree # what the packages hold, unpacked

say() { echo "zfsguest: $*"; }
fail() { echo "zfsguest: error: $*" >&2; exit 1; }

# The order of insertion: each needs those before it. ext4 and what it needs is built into this kernel.
base_modules=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk failover net_failover virtio_net)
zfs_modules=(spl zavl znvpair zcommon icp zlua zunicode zzstd zfs)
zfs_packages=(zfsutils-linux libzfs4linux libzpool5linux libuutil3linux libnvpair3linux udev)

is_newer() { [ "$1" -nt "$here/init" ] && [ "$1" -nt "$here/build.sh" ]; }
up_to_date() {
    [ -s "$out/vmlinuz" ] && [ -e "$out/tools/complete" ] && is_newer "$out/base.img" || return 1
    # What is missing is looked for again after an hour, or when these scripts have changed.
    is_newer "$out/zfs.img" 2>/dev/null ||
        { is_newer "$out/zfs.missing" 2>/dev/null && [ -n "$(find "$out/zfs.missing" -mmin -60)" ]; }
}

# Packages

depends() { # depends PACKAGE PATTERN: the first of its dependencies that begins like this
    apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *|\?Depends: \($2.*\)/\1/p" | head -n 1
}

unpack() { # unpack STAMP PACKAGE...: into the tree, once; as ourselves, because apt's sandbox user may not write there
    local stamp=$tree/$1
    shift
    [ -e "$stamp" ] && return
    rm -rf "$cache/packages"
    mkdir -p "$cache/packages" "$tree"
    (cd "$cache/packages" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$@") || return 1
    local package
    for package in "$cache"/packages/*.deb; do dpkg-deb -x "$package" "$tree"; done
    rm -r "$cache/packages"
    touch "$stamp"
}

fetch_kernel() { # leaves the kernel in the tree, and its version in $kernel
    if [ ! -e "$tree/kernel.unpacked" ]; then
        local package
        package=$(depends linux-image-cloud-amd64 'linux-image-[0-9]') || true
        [ -n "$package" ] || fail "no linux-image-cloud-amd64 in the package lists: run 'apt-get update' (tests/setup/install.sh does)"
        say "downloading $package"
        # Package lists that are some weeks old name a kernel that is no longer there; only root can refresh them.
        unpack kernel.unpacked "$package" ||
            { [ "$(id -u)" -eq 0 ] && apt-get update -qq && unpack kernel.unpacked "$(depends linux-image-cloud-amd64 'linux-image-[0-9]')"; } ||
            fail "cannot download $package: are the package lists current (apt-get update)?"
    fi
    kernel=$(ls "$tree/lib/modules")
}

# OpenZFS

missing() { # missing WHY: there will be no ZFS, and everybody can read why
    say "no ZFS: $*"
    rm -f "$out/zfs.img"
    echo "$*" >"$out/zfs.missing"
}

fetch_zfs() { # headers, compiler's helpers, OpenZFS's source, its tools; on failure says why
    [ -e "$tree/zfs.unpacked" ] && return
    apt-cache show --no-all-versions zfs-dkms >/dev/null 2>&1 || "$here/../setup/contrib.sh" || true
    apt-cache show --no-all-versions zfs-dkms >/dev/null 2>&1 ||
        { echo "the package sources have no zfs-dkms: the component 'contrib' is needed (tests/setup/contrib.sh adds it, as root)"; return 1; }
    local headers=linux-headers-$kernel common kbuild compiler
    common=$(depends "$headers" linux-headers-)
    kbuild=$(depends "$headers" linux-kbuild-)
    compiler=$(depends "$headers" linux-compiler-)
    [ -n "$common" ] && [ -n "$kbuild" ] ||
        { echo "the package sources have no headers for the kernel $kernel any more: remove $tree to take the newest kernel"; return 1; }
    say "downloading $headers and OpenZFS" >&2
    unpack zfs.unpacked "$headers" "$common" "$kbuild" $compiler zfs-dkms "${zfs_packages[@]}" >&2 ||
        { echo "the packages for OpenZFS cannot be downloaded"; return 1; }
    # The headers expect to lie under /usr/src.
    sed -i "s#^include /usr/src/#include $tree/usr/src/#" "$tree/usr/src/$headers/Makefile"
}

compile_zfs() { # leaves spl.ko, zfs.ko and the others in cache/modules/KERNEL; on failure says why
    local modules=$cache/modules/$kernel
    [ -e "$modules/complete" ] && return
    local compiler
    compiler=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\(gcc-[0-9]*\).*/\1/p' "$tree/usr/src/linux-headers-$kernel/.config")
    command -v "${compiler:-gcc}" >/dev/null || { echo "${compiler:-gcc} is not installed: the kernel was compiled with it"; return 1; }
    command -v make >/dev/null || { echo "make is not installed"; return 1; }
    local source
    source=$(ls -d "$tree"/usr/src/zfs-*)
    say "compiling ${source##*/} for $kernel (some minutes, once; log: $cache/zfs.log)" >&2
    rm -rf "$cache/build"
    cp -a "$source" "$cache/build" # with its times: what looks newer than what is made of it would be made anew
    if ! (cd "$cache/build" &&
        nice ./configure --prefix=/usr --with-config=kernel \
            --with-linux="$tree/usr/src/$(basename "$(ls -d "$tree"/usr/src/linux-headers-*-common)")" \
            --with-linux-obj="$tree/usr/src/linux-headers-$kernel" &&
        nice make -j"$(nproc)") >"$cache/zfs.log" 2>&1 </dev/null; then
        echo "the modules of OpenZFS do not compile: $(grep -iE 'error' "$cache/zfs.log" | tail -n 1) (log: $cache/zfs.log)"
        return 1
    fi
    rm -rf "$modules"
    mkdir -p "$modules"
    local module
    for module in "${zfs_modules[@]}"; do
        find "$cache/build/module" -name "$module.ko" -exec cp {} "$modules/" \;
        [ -s "$modules/$module.ko" ] || { echo "OpenZFS was compiled and $module.ko is not there"; return 1; }
        strip --strip-debug "$modules/$module.ko"
    done
    touch "$modules/complete"
    rm -rf "$cache/build"
}

# Packing

library_path=$tree/lib/x86_64-linux-gnu:$tree/usr/lib/x86_64-linux-gnu

# add_program FILE ROOT [PLACE]: the program and every library ldd names; ours come from the tree, others from this machine.
add_program() {
    local file=$1 root=$2 place=${3:-/bin/$(basename "$1")} library
    install -D -m 0755 "$(readlink -f "$file")" "$root$place"
    LD_LIBRARY_PATH=$library_path ldd "$file" | sed -n 's/.*=> \(not found\|\/[^ ]*\).*/\1/p; s/^\t\(\/[^ ]*\) (.*/\1/p' | sort -u |
        while read -r library; do
            [ "$library" != "not found" ] || { echo "a library of $file is not installed: $(LD_LIBRARY_PATH=$library_path ldd "$file" | grep 'not found')" >&2; exit 1; }
            [ -e "$root${library#"$tree"}" ] || install -D -m 0755 "$(readlink -f "$library")" "$root${library#"$tree"}"
        done
}

add_module() { # add_module FILE ROOT NAME: copies it, unpacked, and notes its place in the order
    case $1 in
        "") return ;; # built into this kernel
        *.xz) xz -dc "$1" >"$2/modules/$3.ko" ;;
        *) cp "$1" "$2/modules/$3.ko" ;;
    esac
    echo "$3" >>"$2/modules/${4:-order}"
}

pack() { # pack ROOT IMAGE: not compressed, because the guest's processor is slow and this machine's memory is not
    (cd "$1" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$2.new"
    mv "$2.new" "$2"
}

pack_base() {
    local root=$cache/base applet module
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,sys,run,tmp,etc,root,modules,programs,data}
    cp "$(command -v busybox)" "$root/bin/busybox"
    ldd "$root/bin/busybox" >/dev/null 2>&1 && fail "$(command -v busybox) is not static: install busybox-static"
    for applet in $("$root/bin/busybox" --list); do [ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"; done
    ln -s bin "$root/sbin"
    mkdir -p "$root/usr"
    ln -s ../bin "$root/usr/bin"
    ln -s ../bin "$root/usr/sbin"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    install -m 0755 "$here/init" "$root/init"
    install -D -m 0755 "$(readlink -f /lib64/ld-linux-x86-64.so.2)" "$root/lib64/ld-linux-x86-64.so.2"
    cp /etc/mke2fs.conf "$root/etc/"
    : >"$root/modules/order"
    for module in "${base_modules[@]}"; do
        add_module "$(find "$tree/lib/modules" -name "$module.ko" -o -name "$module.ko.xz" | head -n 1)" "$root" "$module"
    done
    cp "$tree"/boot/vmlinuz-* "$out/vmlinuz.new"
    mv "$out/vmlinuz.new" "$out/vmlinuz"
    pack "$root" "$out/base.img"
    rm -r "$root"
}

pack_tools() {
    local root=$cache/tools program
    rm -rf "$root" "$out/tools"
    mkdir -p "$root" "$out/tools/lib"
    for program in qemu-img qemu-io mke2fs; do
        add_program "$(command -v $program || echo "/usr/sbin/$program")" "$root"
    done
    mv "$root/bin" "$out/tools/bin"
    ln -s mke2fs "$out/tools/bin/mkfs.ext4"
    find "$root" -name '*.so*' -exec mv {} "$out/tools/lib/" \;
    rm -r "$root"
    touch "$out/tools/complete"
}

pack_zfs() {
    local root=$cache/zfs program module
    rm -rf "$root"
    mkdir -p "$root"/{modules,lib/udev/rules.d,etc/udev,etc/zfs}
    for module in "${zfs_modules[@]}"; do add_module "$cache/modules/$kernel/$module.ko" "$root" "$module" order.zfs; done
    for program in zfs zpool; do add_program "$tree/sbin/$program" "$root"; done
    add_program "$tree/bin/udevadm" "$root"
    add_program "$tree/lib/udev/zvol_id" "$root" /lib/udev/zvol_id
    # Programs of ours load these without being linked to zfs or zpool.
    for program in "$tree"/lib/x86_64-linux-gnu/lib*.so.[0-9]; do add_program "$program" "$root" "/lib/x86_64-linux-gnu/$(basename "$program")"; done
    ln -s udevadm "$root/bin/systemd-udevd"
    cp "$tree/lib/udev/rules.d/60-zvol.rules" "$root/lib/udev/rules.d/"
    : >"$root/etc/udev/udev.conf"
    pack "$root" "$out/zfs.img"
    rm -r "$root"
    rm -f "$out/zfs.missing"
}

exec 9>"$cache/lock"
flock 9 # several tests may want the guest at once; the first one builds it
up_to_date && exit 0
fetch_kernel
pack_tools
pack_base
if why=$(fetch_zfs) && why=$(compile_zfs); then
    pack_zfs
    say "built $out/vmlinuz, base.img and zfs.img: kernel $kernel, OpenZFS $(basename "$tree"/usr/src/zfs-* | sed s/zfs-//)"
else
    missing "$why"
fi
