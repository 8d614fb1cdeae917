#!/usr/bin/env bash
# Everything that only a card can show, in the order in which it is wanted, in a quarter of an hour.
#
#     bash benchmarks/on_a_card.sh FOLDER [COPY]
#
# FOLDER gets 22 GB of models with random weights, and FOLDER/results the JSON files; COPY gets these
# files too, after each part. Each part fails alone. The same command goes on where it was stopped:
# finished parts are not repeated. docs/guides/measure-a-card.md says what is needed and measured.
#
# BUDGET (870): seconds that all parts may take; what does not fit is left out, with a line.
# PARTS: names of the parts to run, with spaces; all unless set. ROWS: parts of names of table rows.
# PACKAGES: a folder or .tgz of Python packages, of benchmarks/pack_for_card.py. PYTHON: the interpreter.
# COMMIT: what is measured, where the sources come without git.
# SIZE=tiny rehearses everything on any machine, with small models and figures that mean nothing.
set -uo pipefail
if [[ $# -lt 1 || "$1" == -* ]]; then
  sed -n '2,/^set/{s/^# \{0,1\}//;/^set/d;p}' "${BASH_SOURCE[0]}"
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python}" size="${SIZE:-full}" slow=1
mkdir -p "$1/results" "${2:-$1/results}"
folder="$(cd "$1" && pwd)" copy="$(cd "${2:-$1/results}" && pwd)"
results="$folder/results"
[[ "$size" == tiny ]] && slow=6  # small machines take their time
budget="${BUDGET:-$((870 * slow))}"
if [[ -f "${PACKAGES:-}" ]]; then
  mkdir -p "$folder/packages" && tar -xzf "$PACKAGES" -C "$folder/packages" && PACKAGES="$folder/packages"
fi
PYTHONPATH="$(dirname "$here")${PACKAGES:+:$PACKAGES}${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH XDG_CACHE_HOME="$folder/cache" HF_HUB_OFFLINE=1

child="" # what runs now, in a process group of its own, and dies with this script
trap 'kill $child $(jobs -p) 2>/dev/null; exit 143' INT TERM
left() { echo $((budget - SECONDS)); }
part() {  # part NAME LEAST MOST COMMAND...  seconds without which it does not start, and that it gets
  local name="$1" least="$2" most="$3" limit code=0; shift 3
  [[ -z "${PARTS:-}" || " $PARTS " == *" $name "* ]] || return
  if [[ -e "$results/$name.done" ]]; then echo "== $name: done before"; return; fi
  limit=$(left); ((limit > most * slow)) && limit=$((most * slow))
  if ((limit < least)); then echo "== $name: left out, $(left) of $budget s are left"; return; fi
  echo "== $name, at $SECONDS s, for at most $limit s"
  local started=$SECONDS
  : >"$results/$name.out"
  timeout -k 10 "$limit" "$@" 2>>"$results/$name.log" >"$results/$name.out" &
  child=$!
  tail -n +1 -f --pid="$child" "$results/$name.out" | grep --line-buffered -v '^[][{} "]' & # no JSON
  shown=$!
  wait "$child" || code=$?
  wait "$shown"
  if ((code == 0)); then touch "$results/$name.done"; else
    echo "$name: exit code $code ($results/$name.log): $(grep -v '^ *$' "$results/$name.log" | tail -1 | cut -c1-300)"
  fi
  echo "$name $((SECONDS - started)) $code" >>"$results/parts.txt"
  [[ "$copy" == "$results" ]] || cp -rf "$results/." "$copy/"
}
aside() { (trap 'kill $child' TERM; part "$@") & }  # beside other parts
run() {  # run NAME LEAST MOST ARGUMENTS...  a benchmark of the same name, with a JSON file
  local name="$1" least="$2" most="$3"; shift 3
  part "$name" "$least" "$most" "$python" "$here/${name%%-*}.py" "$@" --json "$results/$name.json"
}
table() {  # table NAME LEAST MOST  as many rows as there is time for; goes on where it was
  local seconds; seconds=$(left); ((seconds > $3 * slow)) && seconds=$(($3 * slow))
  part "$1" "$2" $((seconds / slow + 5)) "$python" "$here/full_size.py" "$folder" --seconds $((seconds - 5)) \
    --json "$results/full_size.json" "${rows[@]}"
  [[ "$1" == table-1 ]] || rm -f "$results/$1.done"  # rows may be left
}
cd "$folder" || exit 1
deep=(--layers 24 --side 1024 --batch 3 --steps 10) wide=(--tokens 4096 --layers 24 --heads 24 --batch 4)
copies=() speed=(--device cuda --compile --widths 1536 2432) rows=(${ROWS:+--rows "$ROWS"}) steps=50 device=cuda
doctor=(--deep) tests=()
if [[ "$size" == tiny ]]; then
  deep=(--layers 2 --side 128 --steps 2 --backend aot_eager) wide=(--tokens 64 --layers 2 --rounds 1)
  copies=(--width 128 --blocks 2 --tokens 64 --repeats 1) speed=(--widths 64 --tokens 32 --rounds 1)
  steps=8 device=cpu doctor=(--quick) tests=(-k noise) rows+=(--backend aot_eager --row-seconds 600)
  export SD3TUNE_BACKEND=cpu SD3TUNE_TEST_DEVICE=cpu OMP_NUM_THREADS=1
fi
run card_check 10 90 "$folder"
if grep -q '"missing: ' "$results/card_check.json" 2>/dev/null; then
  echo "error: packages are missing ($results/card_check.json); nothing else is run"
  exit 1
fi
run random_models 30 150 "$folder" --size "$size"
table table-1 30 320
run first_step 40 100 "$folder"
run determinism 60 170 "$folder" --steps "$steps"
run compiling 40 110 "${deep[@]}"
cd "$here/.." || exit 1
plan=("$folder/config/config.json" "resolution=$(cat "$folder/pixels.txt")" max_train_steps=3000 --json)
aside plan 10 40 env -C "$folder" "$python" -m sd3tune plan "${plan[@]}"
aside doctor 20 90 "$python" -m sd3tune doctor --json "${doctor[@]}"
aside curve 30 120 "$python" scripts/compare-curve ".:$device" --case "sd3.5-medium lora" --write "$results/curve.json"
aside device_tests 30 120 "$python" -m pytest -q -v -p no:cacheprovider tests/device "${tests[@]}"
wait
run host_copies 30 90 "${copies[@]}"
run eight_bit 30 90 speed "${speed[@]}"
run eight_bit-lora 30 60 lora "${speed[@]}"
run checkpointing 30 90 "${wide[@]}"
table table-2 30 600
"$python" "$here/card_summary.py" "$results" --json "$results/summary.json" | grep -v '^{"'
[[ "$copy" == "$results" ]] || cp -rf "$results/." "$copy/"
