#!/usr/bin/env bash
# Build the image with buildah: docker/image.sh IMAGE [BASE]
# Without BASE it is the Dockerfile's own. Where that can't be pulled, docker/base.sh makes one out of Debian's packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
image="$1" base="${2:-}"
# These work everywhere, also within a container or a virtual machine without overlay mounts.
export BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}" STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"
made=localhost/qrusty-trio-base

if [ -z "$base" ]; then
	base="$(sed -n 's/^ARG BASE=//p' docker/Dockerfile)"
	if ! timeout 60 buildah pull --quiet "$base" > /dev/null 2>&1; then
		echo "$base can't be pulled: the base is made out of Debian's packages" >&2
		base="$made"
		buildah inspect --type image "$base" > /dev/null 2>&1 || docker/base.sh "$base"
	fi
fi

# What fetches packages trusts whom this machine trusts.
buildah build --quiet --format docker --file docker/Dockerfile --tag "$image" --volume /etc/ssl/certs:/etc/ssl/certs:ro \
	--build-arg BASE="$base" \
	--build-arg VERSION="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' qrusty_trio/__init__.py)" \
	--build-arg REVISION="$(git rev-parse HEAD 2> /dev/null || true)" \
	--build-arg CREATED="$(date --utc +%Y-%m-%dT%H:%M:%SZ --date="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}")" \
	. > /dev/null
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' "$image"
