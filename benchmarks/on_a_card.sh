#!/usr/bin/env bash
# What only a card can show, in the order in which it is wanted, for a card that is at hand for a quarter
# of an hour. Each part prints its lines as it goes and fails alone.
#
#     bash benchmarks/on_a_card.sh FOLDER [RESULTS]
#
# FOLDER gets 22 GB of models with random weights; RESULTS (FOLDER/results unless given) the JSON files.
# PYTHON chooses the interpreter. SIZE=tiny rehearses everything on any machine.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="$1" results="${2:-$1/results}" python="${PYTHON:-python}" size="${SIZE:-full}"
mkdir -p "$folder" "$results"
folder="$(cd "$folder" && pwd)" results="$(cd "$results" && pwd)"
part() {  # part SECONDS NAME COMMAND…
  local seconds="$1" name="$2"; shift 2
  echo "== $name [$SECONDS s]"
  timeout "$seconds" "$@" 2>"$results/$name.txt" || echo "$name: exit code $?: $(tail -1 "$results/$name.txt")"
}
part 60 imports "$python" -c 'import bitsandbytes, diffusers, lycoris, optimum.quanto, peft, sd3tune, torch; print(torch.__version__)'
part 120 models "$python" "$here/random_models.py" "$folder" --size "$size"
table="${TABLE_SECONDS:-480}"
part $((table + 20)) full_size "$python" "$here/full_size.py" "$folder" --seconds "$table" --json "$results/full_size.json"
part 150 determinism "$python" "$here/determinism.py" "$folder" --json "$results/determinism.json"
