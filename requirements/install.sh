#!/usr/bin/env bash
# install.sh jazzy|kilted FOLDER: the virtual environment of this package, made once and kept while the pins stand.
# PYTHON chooses the interpreter. What is missing on the machine is said in one line.
set -euo pipefail
cd "$(dirname "$0")/.."
distro=$1
venv=$2

fail() { echo "grids_ros: $*" >&2; exit 1; }

[ -f "requirements/$distro.txt" ] || fail "ROS_DISTRO=$distro: expected jazzy or kilted"

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.13 python3.14 python3.11 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.10 to 3.14 found (looked for ${PYTHON:-python3}); 'sudo apt install python3 python3-venv', or PYTHON=..."
}

# What goes into the environment, and where it lies: a change of any of it makes the environment anew.
wanted() {
  { "$1" -V; realpath -m "$venv"; sed -n '/^\[project\]/,/^\[tool/p' pyproject.toml; cat "requirements/$distro".{in,txt}; } | cksum
}

show_progress() {  # pip's log on stdin: one line that counts on a terminal, a line now and then elsewhere
  local terminal=0
  if [ -t 1 ]; then terminal=1; fi
  awk -v terminal="$terminal" -v total="$(grep -vc "< '3.11'" "requirements/$distro.txt")" '
    /^ *Collecting / { n++; if (terminal) printf "\r\033[K  %d of about %d  %s", n, total, $2
                       else if (n % 40 == 0) printf "  %d of about %d\n", n, total; fflush() }
    /^Installing collected packages/ { printf "%s  unpacking (a minute or two)\n", terminal ? "\r\033[K" : ""; fflush() }'
}

make_environment() {
  local python=$1 version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python $version has no venv: sudo apt install python$version-venv"
  echo "grids_ros: first start: Python $version, ROS 2 $distro and PyTorch into $venv (some minutes; log: $venv/install.log)"
  if [ -e "$venv" ] && [ ! -e "$venv/install.log" ]; then
    fail "$venv was not made by this script and stays as it is; remove it, or choose another VENV"
  fi
  rm -rf "$venv"
  mkdir "$venv"
  : > "$venv/install.log"  # from here on the folder is known as ours, whatever interrupts
  "$python" -m venv "$venv"
  if ! "$venv/bin/python" -m pip install --no-input --disable-pip-version-check --timeout 60 \
      -e '.[dev]' -r "requirements/$distro.in" -c "requirements/$distro.txt" 2>&1 |
      tee "$venv/install.log" | show_progress; then
    tail -n 5 "$venv/install.log" >&2
    fail "pip could not install the requirements; its log is $venv/install.log"
  fi
}

python=$(find_python)
stamp=$(wanted "$python")
mkdir -p "$(dirname "$venv")"
exec 9> "$venv.lock"
flock 9  # two makes at once: the second waits for the first
if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
  make_environment "$python"
  echo "$stamp" > "$venv/stamp"
fi
"$venv/bin/python" -c 'import mujoco; mujoco.GLContext(16, 16)' > /dev/null 2> "$venv/rendering.log" ||
  fail "no ${MUJOCO_GL:-egl} rendering (reason: $venv/rendering.log): sudo apt install libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri"
