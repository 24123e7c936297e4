#!/usr/bin/env bash
# Every test again and again with all processors burning beside it: none may depend on a quiet machine.
# stress.sh PYTHON [arguments of pytest]; TIMES in a row. It ends at the first run that fails, and leaves nothing burning.
set -euo pipefail
python=$1
shift
burners=()
trap 'kill "${burners[@]}" 2> /dev/null || true' EXIT
for _ in $(seq "$(nproc)"); do
	"$python" -c 'while True: pass' &
	burners+=($!)
done
for run in $(seq "${TIMES:-5}"); do
	echo "run $run of ${TIMES:-5}"
	"$python" -m pytest "$@"
done
