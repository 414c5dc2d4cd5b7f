#!/bin/sh
# Gather what nodes run: netplane and all it stands on, as wheels for Debian 12's Python, unpacked into one archive.
#   provision/bundle.sh [FOLDER]     leaves FOLDER/netplane.tar.gz, by default in vagrant/wheelhouse
# Nodes need no pip and no network then: unpacking takes seconds where installing takes a minute under emulation.
# LOCAL_VERSION=next makes the same of version X+next (PEP 440, local version): something to upgrade to.
# WHEELS names the folder of the wheels that netplane stands on, for bundles to share; by default FOLDER/wheels.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
folder=${1:-"$here/../wheelhouse"}
python=${PYTHON:-python3}
local_version=${LOCAL_VERSION:-}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
wheels=${WHEELS:-$folder/wheels}
mkdir -p "$wheels"

# Vagrant brings machines up side by side, and asks for the bundle once for each.
if command -v flock >/dev/null; then exec 9>"$folder/lock"; flock 9; fi

inputs=$(cd "$project" && git ls-files -s netplane cni proxy pyproject.toml 2>/dev/null | sha256sum | cut -d' ' -f1
         cd "$project" && git diff -- netplane cni proxy pyproject.toml 2>/dev/null | sha256sum | cut -d' ' -f1
         sha256sum <"$0"; echo "$local_version")
if [ -f "$folder/netplane.tar.gz" ] && [ "$(cat "$folder/inputs" 2>/dev/null)" = "$inputs" ]; then
  echo "the bundle is up to date"
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "1/3 build netplane's wheel"
mkdir "$work/source"
tar -C "$project" -c --exclude=__pycache__ netplane cni proxy pyproject.toml README.md | tar -C "$work/source" -x
if [ -n "$local_version" ]; then
  sed -i "s/^\(version = \"[^\"+]*\)\"/\1+$local_version\"/" "$work/source/pyproject.toml"
  sed -i "s/^\(__version__ = \"[^\"+]*\)\"/\1+$local_version\"/" "$work/source/netplane/__init__.py"
fi
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" "$work/source"
wheel=$(ls "$work"/netplane-*.whl)
needs=$(sha256sum <"$project/pyproject.toml")
if [ "$(cat "$wheels/needs" 2>/dev/null)" != "$needs" ]; then
  echo "2/3 fetch the wheels it stands on"
  rm -f "$wheels"/netplane-*.whl
  "$python" -m pip download --quiet --disable-pip-version-check --dest "$wheels" --only-binary=:all: \
    --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --find-links "$wheels" "$wheel[containerd]"
  rm -f "$wheels"/netplane-*.whl
  echo "$needs" >"$wheels/needs"
else
  echo "2/3 the wheels it stands on are there"
fi
echo "3/3 unpack them into one archive"
for each in "$wheels"/*.whl "$wheel"; do
  "$python" -m zipfile -e "$each" "$work/lib"
done
# Of the schemas of all of Kubernetes' versions netplane reads one file; the others would be three files of four to unpack.
schemas="$work/lib/kubernetes_validate/kubernetes-json-schema"
read_one=$(sed -n 's/^_VERSION = "\(.*\)"$/\1/p' "$project/netplane/controlplane/registry/schema/definitions.py")
[ -n "$read_one" ] && [ -f "$schemas/$read_one/_definitions.json" ] || { echo "bundle.sh: which schema is read?" >&2; exit 1; }
find "$schemas" -type f ! -path "$schemas/$read_one/_definitions.json" -exec rm {} +
find "$schemas" -type d -empty -delete
if [ "$("$python" -c 'import sys; print(*sys.version_info[:2])')" = "3 11" ]; then
  # Compiled here, a start on an emulated machine is ten times quicker; another Python's code would be of no use.
  "$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$work/lib" >/dev/null || true
fi
tar -C "$work" -czf "$folder/netplane.tar.gz" lib
echo "$inputs" >"$folder/inputs"
echo "made $folder/netplane.tar.gz ($(du -h "$folder/netplane.tar.gz" | cut -f1))"
