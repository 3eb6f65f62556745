#!/bin/sh
# Makes the virtual environment $VENV with learner, server and test tools. Prints one line and exits 1 when it cannot.
set -eu
VENV=${VENV:-.venv}
NEED_MB=6000

fail() { echo "setup: $*" >&2; exit 1; }

supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
python=
for candidate in ${PYTHON:-} python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$supported" 2>/dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "Python 3.11 or 3.12 is needed, found $(python3 --version 2>&1 || echo none); on Debian 12: apt install python3.11 python3.11-venv, or say PYTHON=/path/to/python make"

free_mb=$(df -Pm . | awk 'NR==2 {print $4}')
[ "$free_mb" -ge "$NEED_MB" ] || [ -x "$VENV/bin/python" ] || fail "$NEED_MB MB of free disk are needed here, $free_mb MB are free"

if [ ! -x "$VENV/bin/python" ]; then
    "$python" -m venv "$VENV" || { rm -rf "$VENV"; fail "cannot make a virtual environment; on Debian: apt install python3-venv"; }
fi
echo "setup: installing into $VENV (a few minutes the first time)"
log=$VENV/install.log
if ! { "$VENV/bin/python" -m pip install --upgrade pip && "$VENV/bin/python" -m pip install -c constraints.txt -e ".[learner,server,dev]"; } >"$log" 2>&1; then
    fail "installation failed: $(grep -E '^ERROR' "$log" | head -n 1); the whole log: $log"
fi
# No wheel for this machine is no reason to fail: its tests are skipped then, and say so.
"$VENV/bin/python" -m pip install -c constraints.txt -e ".[carla]" >>"$log" 2>&1 || echo "setup: no CARLA client for this machine, its tests will be skipped; $log says why"
touch "$VENV/.installed"
