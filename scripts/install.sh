#!/bin/sh
# scripts/install.sh run|test|lint: makes .venv if there is none, and installs the relay into it, editable, with that part's
# dependencies. Needs a Python of at least 3.11 and says so, with the line to type, when there is none. PYTHON chooses one.
set -eu
cd "$(dirname "$0")/.."
part=${1:-run}

say() { printf 'install: %s\n' "$*" >&2; }
give_up() { say "$*"; exit 1; }

# Debian and Ubuntu keep venv and pip's installer in packages of their own, so a Python may be there and yet not be enough.
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
complete() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
candidates() { if [ -n "${PYTHON:-}" ]; then echo "$PYTHON"; else echo python3.13 python3.12 python3.11 python3; fi; }

choose_python() {
    chosen=
    for python in $(candidates); do
        recent "$python" || continue
        [ -n "$chosen" ] || chosen=$python
        if complete "$python"; then chosen=$python; return; fi
    done
    [ -n "$chosen" ] || give_up "no Python 3.11 or newer found (looked for: $(candidates)).
install: Debian 12, Ubuntu 24.04: sudo apt-get install python3 python3-venv
install: then again, or with PYTHON=/path/to/python3.11"
    add_venv_module "$chosen"
}

add_venv_module() {
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "$1 has no venv module; installing $package"
        apt-get update -qq </dev/null || say "apt-get update failed; trying with the lists there are"
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null ||
            give_up "apt-get could not install $package"
    fi
    complete "$1" || give_up "$1 cannot make a virtual environment: its venv module is a package of its own.
install: type: sudo apt-get install $package"
}

# An environment whose Python was upgraded away, or whose making was interrupted, is made anew.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    choose_python
    say "making .venv with $("$chosen" -V 2>&1)"
    rm -rf .venv
    "$chosen" -m venv .venv
fi

case $part in
    run) target=. ;;
    *) target=".[$part]" ;;
esac
say "installing $target and its dependencies"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --editable "$target"
