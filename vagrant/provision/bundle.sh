#!/bin/sh
# Gather what nodes run: netplane and all it stands on, as wheels for Debian 12's Python, unpacked into one archive.
#   provision/bundle.sh [FOLDER]     leaves FOLDER/netplane.tar.gz, by default in vagrant/wheelhouse
# Nodes need no pip and no network then: unpacking takes seconds where installing takes a minute under emulation.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
folder=${1:-"$here/../wheelhouse"}
python=${PYTHON:-python3}
mkdir -p "$folder/wheels"
folder=$(cd "$folder" && pwd)

inputs=$(cd "$project" && git ls-files -s netplane cni proxy pyproject.toml 2>/dev/null | sha256sum | cut -d' ' -f1
         cd "$project" && git diff -- netplane cni proxy pyproject.toml 2>/dev/null | sha256sum | cut -d' ' -f1)
if [ -f "$folder/netplane.tar.gz" ] && [ "$(cat "$folder/inputs" 2>/dev/null)" = "$inputs" ]; then
  echo "the bundle is up to date"
  exit 0
fi

echo "1/3 build netplane's wheel"
rm -f "$folder"/wheels/netplane-*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder/wheels" "$project"
wheel=$(ls "$folder"/wheels/netplane-*.whl)
echo "2/3 fetch the wheels it stands on"
"$python" -m pip download --quiet --disable-pip-version-check --dest "$folder/wheels" --only-binary=:all: \
  --python-version 3.11 --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --find-links "$folder/wheels" "$wheel[containerd]"
echo "3/3 unpack them into one archive"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for each in "$folder"/wheels/*.whl; do
  "$python" -m zipfile -e "$each" "$work/lib"
done
if [ "$("$python" -c 'import sys; print(*sys.version_info[:2])')" = "3 11" ]; then
  # Compiled here, a start on an emulated machine is ten times quicker; another Python's code would be of no use.
  "$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$work/lib" >/dev/null || true
fi
tar -C "$work" -czf "$folder/netplane.tar.gz" lib
echo "$inputs" >"$folder/inputs"
echo "made $folder/netplane.tar.gz ($(du -h "$folder/netplane.tar.gz" | cut -f1))"
