#!/bin/sh
# Makes .venv with what uv.lock names, from nothing but Python 3.11+ and, where a part of it is missing, apt.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.8
tools=build/tools
uv=$tools/uv/bin/uv

fail() {
    echo "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in "${PYTHON:-python3}" python3 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or later is missing. Install it, or name it: make PYTHON=/path/to/python3.12"
}

install_venv() {
    package=$("$1" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    root=
    [ "$(id -u)" = 0 ] || root=sudo
    echo "Installing $package ..."
    { $root apt-get update -q && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$package"; } >/dev/null ||
        fail "Python's venv module is missing and could not be installed. Run: sudo apt-get install $package"
}

python=$(find_python)
if ! "$uv" --version 2>/dev/null | grep -q "^uv $UV_VERSION\b"; then
    "$python" -c 'import ensurepip' 2>/dev/null || install_venv "$python"
    echo "Installing uv $UV_VERSION below $tools ..."
    rm -rf "$tools/uv"
    mkdir -p "$tools"
    "$python" -m venv "$tools/uv"
    "$tools/uv/bin/pip" install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
        fail "uv could not be installed: is PyPI reachable?"
fi

echo "Installing the Python packages of uv.lock into .venv ..."
unset VIRTUAL_ENV
UV_PYTHON_DOWNLOADS=never "$uv" sync --locked --quiet --python "$python" ||
    fail "The packages of uv.lock could not be installed into .venv."
