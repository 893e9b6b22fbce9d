#!/bin/sh
# Run a script with a Python that is new enough: sh tools/python.sh SCRIPT ARGUMENTS
# $PYTHON is tried first, then the one in .venv, then what PATH has.

for python in "$PYTHON" .venv/bin/python python3 python3.11 python3.12 python3.13 python3.14 python; do
    [ -n "$python" ] || continue
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" "$@"
    fi
done

found=$(python3 --version 2>&1) || found="no python3"
echo "error: Burnish needs Python 3.11 or newer" >&2
echo "  at: PATH (found: $found)" >&2
echo "  fix: install Python 3.11, or name one: make install PYTHON=/path/to/python3.11" >&2
exit 2
