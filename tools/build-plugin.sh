#!/bin/sh
# build-plugin.sh NAME [TAG]: build Dockerfile.NAME, make the managed plugin NAME:TAG (default latest) of it, and enable it.
# A plugin that was made from the same image and configuration is kept.
set -eu
NAME=${1:?which plugin: teleroute or telemount}
TAG=${2:-latest}
cd "$(dirname "$0")/.."
mkdir -p build/plugins
[ -f "Dockerfile.$NAME" ] || { echo "build-plugin: there is no Dockerfile.$NAME; use teleroute or telemount" >&2; exit 2; }

IMAGE=$(docker build -q -f "Dockerfile.$NAME" -t "telepresence/$NAME-rootfs" . 2>"build/.plugin-log" || { cat build/.plugin-log >&2; exit 1; })
docker image prune -f --filter label=telepresence.io/image >/dev/null # what this tag was before
WANTED=$({ echo "$IMAGE"; cat "plugin-configs/$NAME.json"; } | sha256sum | cut -d ' ' -f 1)
STAMP=build/plugins/$NAME-$TAG

state=$(docker plugin inspect -f '{{.Id}} {{.Enabled}}' "$NAME:$TAG" 2>/dev/null || true)
if [ -n "$state" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$WANTED ${state% *}" ]; then
  [ "${state#* }" = true ] || docker plugin enable "$NAME:$TAG" >/dev/null
  exit 0
fi

if [ -n "$state" ]; then
  if ! said=$(docker plugin disable "$NAME:$TAG" 2>&1); then
    case $said in
      *"already disabled"*) ;;
      *) echo "build-plugin: $NAME:$TAG cannot be replaced, for it is in use ($said): \`telepresence quit\` first" >&2; exit 1 ;;
    esac
  fi
  docker plugin rm "$NAME:$TAG" >/dev/null
fi

FOLDER=$(mktemp -d build/plugins/.XXXXXX)
CONTAINER=
trap 'rm -rf "$FOLDER"; [ -z "$CONTAINER" ] || docker rm "$CONTAINER" >/dev/null' EXIT
mkdir "$FOLDER/rootfs"
cp "plugin-configs/$NAME.json" "$FOLDER/config.json"
CONTAINER=$(docker create "$IMAGE")
docker export "$CONTAINER" | tar -x -C "$FOLDER/rootfs"
docker plugin create "$NAME:$TAG" "$FOLDER" >/dev/null
docker plugin enable "$NAME:$TAG" >/dev/null
echo "$WANTED $(docker plugin inspect -f '{{.Id}}' "$NAME:$TAG")" >"$STAMP"
