#!/usr/bin/env bash
# Make a base image for docker/Dockerfile out of Debian's packages, where no registry of images can be reached:
#   docker/base.sh NAME [SUITE]
# Needs root, debootstrap and buildah.
set -euo pipefail
name="$1" suite="${2:-bookworm}"
work="$(mktemp -d -t qrusty-base-XXXXXX)"
trap 'rm -rf "$work"' EXIT

# Nothing here has to survive a power cut, so dpkg need not sync.
DPKG_FORCE=unsafe-io debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$work/root" \
	"${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$work/log" || { tail -20 "$work/log" >&2; exit 1; }
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/var/log/* \
	"$work"/root/usr/share/{doc,info,locale,man}/*
find "$work/root/usr/lib" -name __pycache__ -type d -prune -exec rm -rf {} +
tar --create --numeric-owner --one-file-system --directory "$work/root" --file "$work/base.tar" .

container="$(buildah from scratch)"
buildah add --quiet "$container" "$work/base.tar" / > /dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$name" > /dev/null
