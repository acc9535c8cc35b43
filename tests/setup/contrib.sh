#!/usr/bin/env bash
# Adds Debian's component `contrib`, which holds OpenZFS, to the package sources that this machine has already: the hosts and the
# suites stay as they are, only the Components of Debian's own are longer by a word. Says so. Needs root; safe to run again.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

known() { apt-cache show --no-all-versions zfs-dkms >/dev/null 2>&1; }

known && exit 0
[ "$(id -u)" -eq 0 ] || { echo "setup: error: root is needed to add 'contrib' to the package sources" >&2; exit 1; }
shopt -s nullglob
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -f "$file" ] || continue
    # Only Debian's own archive knows the component: a stanza or line that offers `main` of a suite named after its release.
    grep -qsE '(bookworm|stable)' "$file" && grep -qE 'debian' "$file" || continue
    before=$(cat "$file")
    case $file in
        *.sources) sed -i -E '/^Components:.*\<main\>/{/\<contrib\>/!s/$/ contrib/}' "$file" ;;
        *) sed -i -E '/^deb(-src)?[[:space:]].*debian.*[[:space:]](bookworm|stable)[^[:space:]]*[[:space:]]+main\>/{/\<contrib\>/!s/$/ contrib/}' "$file" ;;
    esac
    [ "$before" = "$(cat "$file")" ] || echo "setup: added the component 'contrib' (OpenZFS) in $file"
done
apt-get update -qq || echo "setup: apt-get update had errors; going on with the package lists at hand"
known || { echo "setup: error: the package sources have no zfs-dkms, with 'contrib' either" >&2; exit 1; }
