#!/usr/bin/env bash
# A run on several processes has the bits of a run on one: bash tests/cluster/proof.sh [short|full]
#
# RESNET is a `resnet` built with --features mpi. Needs Open MPI's mpirun; every mpirun ends after a time limit.
#   short  two processes, a kill, a resumed run, a process that disagrees, several seeds, predictions; about a minute
#   full   every kind of network and all options on 1 to 8 processes; twenty kills; every kind of disagreement
set -euo pipefail
mode=${1:-short}
resnet=${RESNET:?set RESNET to a resnet built with --features mpi}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# As root, and with more processes than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1

fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

# mpi N ARGUMENTS: N processes of resnet.
mpi() { timeout 600 mpirun -n "$1" "$resnet" "${@:2}"; }

# The files that must be equal, as hashes. best.safetensors is there only with a validation set.
hashes() { (cd "$1" && sha256sum weights.safetensors metrics.csv metrics.jsonl layers.csv $(ls best.safetensors 2>/dev/null)); }

same() { # WHAT FOLDER FOLDER
  diff <(hashes "$2") <(hashes "$3") >"$work/diff" || { cat "$work/diff"; fail "$1: other bits"; }
  diff <(grep -v seconds "$2/result.json" | grep -v peak_memory) <(grep -v seconds "$3/result.json" | grep -v peak_memory) ||
    fail "$1: another result"
  printf 'ok: %s\n' "$1"
}

same_seeds() { # WHAT FOLDER FOLDER
  for seed in "$2"/seed-*; do same "$1, $(basename "$seed")" "$seed" "$3/$(basename "$seed")"; done
  diff "$2/config.toml" "$3/config.toml" >/dev/null || fail "$1: other settings"
  diff <(grep -v seconds "$2/repeat.json" | grep -v peak_memory) <(grep -v seconds "$3/repeat.json" | grep -v peak_memory) ||
    fail "$1: another summary"
}

# refused CODE WORDS COMMAND: the command must end within half a minute, with this exit code and these words.
refused() {
  local code=0
  timeout 30 "${@:3}" >"$work/out" 2>&1 || code=$?
  [ "$code" = "$1" ] || { cat "$work/out"; fail "exit code $code instead of $1: ${*:3}"; }
  grep -q -- "$2" "$work/out" || { cat "$work/out"; fail "no \`$2\`: ${*:3}"; }
  printf 'ok: refused: %s\n' "$2"
}

small=(--train-images 240 --batch-size 40 --epochs 2 --validation 40)
long=(--train-images 480 --batch-size 40 --epochs 12 --shards 8)
seeds=(--train-images 240 --batch-size 40 --repeat 3 --epochs 6)
grouped=(--train-images 240 --batch-size 48 --epochs 2 --validation 40 --shards 8 --norm-group 3)
everything=(--mixup 0.4 --cutout 8 --ema-decay 0.9 --clip-norm 0.5 --accumulate 2 --label-smoothing 0.1 --test-flip)

# kill_and_resume N PROCESSES: kills a random process at a random moment, and resumes with another number of processes.
kill_and_resume() {
  local out=$work/killed-$1 epoch seconds ranks
  mpi 2 train "${long[@]}" --checkpoint-every 1s --out "$out" >/dev/null 2>&1 &
  local run=$!
  read -r epoch seconds < <(awk -v seed="$1" 'BEGIN { srand(seed); rand(); print int(11 * rand()), 0.3 * rand() }')
  # With the header.
  while [ "$(cat "$out/metrics.csv" 2>/dev/null | wc -l)" -le "$epoch" ] && kill -0 "$run" 2>/dev/null; do sleep 0.02; done
  sleep "$seconds"
  ranks=$(pgrep -f -- "--out $out" | while read -r pid; do
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(basename "$resnet" | cut -c1-15)" ] && echo "$pid"; done || true)
  if [ -n "$ranks" ]; then
    kill -9 "$(echo "$ranks" | shuf -n 1 --random-source=<(yes "$1"))" 2>/dev/null || true
  fi
  wait "$run" || true
  [ ! -e "$out/result.json" ] || fail "the run ended before a process was killed"
  epoch=$(wc -l <"$out/metrics.csv")
  if [ "$2" = 1 ]; then "$resnet" train --resume "$out" >/dev/null; else mpi "$2" train --resume "$out" >/dev/null; fi
  same "a process killed in epoch $epoch of 12, resumed with $2 processes" "$work/long" "$out"
  rm -rf "$out"
}

# process_of FOLDER RANK: the process with this rank, of those that write there.
process_of() {
  pgrep -f -- "--out $1" | while read -r pid; do
    if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$2"; then echo "$pid"; fi
  done
}

# stop_and_resume SIGNAL RANK N PROCESSES: N processes train three seeds; one of them gets the signal in the second epoch; PROCESSES
# continue. A signal that a process can handle stops all of them with a checkpoint.
stop_and_resume() {
  local out=$work/seeds-$1-$2-$3 code=0
  mpi "$3" train "${seeds[@]}" --threads 1 --out "$out" >"$work/out" 2>&1 &
  local run=$!
  while [ "$(cat "$out"/seed-*/metrics.csv 2>/dev/null | grep -c ^1,)" = 0 ] && kill -0 "$run" 2>/dev/null; do sleep 0.02; done
  kill -"$1" "$(process_of "$out" "$2")"
  wait "$run" || code=$?
  [ ! -e "$out/repeat.json" ] || fail "the runs ended before they got a signal"
  if [ "$1" = TERM ]; then
    [ "$code" = 143 ] || { cat "$work/out"; fail "exit code $code instead of 143"; }
    ! ls "$out"/seed-*/result.json >/dev/null 2>&1 || fail "a group has not stopped"
    grep -q "^stopped; resume with" "$work/out" || { cat "$work/out"; fail "no word about the end"; }
    ! grep -q 'on signal\|improperly' "$work/out" || { cat "$work/out"; fail "a process has not ended by itself"; }
  fi
  mpi "$4" train --resume "$out" >/dev/null
  same_seeds "SIG$1 for process $2 of $3, resumed with $4" "$work/seeds" "$out"
  rm -rf "$out"
}

# predicts_the_same N ARGUMENTS: N processes print what one prints, on both streams.
predicts_the_same() {
  (cd "$work" && "$resnet" predict "${@:2}" >one.out 2>one.err) || true
  (cd "$work" && mpi "$1" predict "${@:2}" >two.out 2>two.err) || true
  # What mpirun says when a process ends with an error.
  sed -i '/^-----/,/^-----/d' "$work/two.err"
  diff "$work/one.out" "$work/two.out" >/dev/null && diff "$work/one.err" "$work/two.err" || fail "predict ${*:2}: other results"
  printf 'ok: predict %s, %s processes\n' "${*:2}" "$1"
}
for copy in 1 2 3 4 5; do
  mkdir -p "$work/pictures/$copy"
  cp "$(dirname "$0")"/../../docs/images/resnet20/*.png "$work/pictures/$copy"
done
head -c 100 "$work/pictures/1/report.png" >"$work/pictures/3/broken.png"

"$resnet" train "${small[@]}" "${everything[@]}" --shards 8 --out "$work/one" >/dev/null
mpi 2 train "${small[@]}" "${everything[@]}" --out "$work/two" >"$work/out"
grep -q "split into 8 shards" "$work/out" || fail "no note about the shards"
same "all options, 2 processes" "$work/one" "$work/two"
"$resnet" train "${grouped[@]}" --out "$work/grouped" >/dev/null
mpi 3 train "${grouped[@]}" --out "$work/grouped-3" >/dev/null
same "batch norm over groups, 3 processes" "$work/grouped" "$work/grouped-3"
"$resnet" train "${long[@]}" --out "$work/long" >/dev/null
kill_and_resume 1 1
kill_and_resume 2 3
refused 2 "cannot share 1 shard" mpirun -n 2 "$resnet" train "${small[@]}" --shards 1 --out "$work/none"
refused 1 "another configuration than process 0" mpirun -n 1 "$resnet" train "${small[@]}" --lr 0.1 --out "$work/none" \
  : -n 1 "$resnet" train "${small[@]}" --lr 0.2 --out "$work/none"
[ ! -e "$work/none" ] || fail "a refused run has left a folder"
# A step on four processes, two of them with each set of kernels.
mpirun -n 2 -x RESNET_KERNELS=avx2 "$resnet" train "${small[@]}" "${everything[@]}" --out "$work/mixed" : \
  -n 2 "$resnet" train "${small[@]}" "${everything[@]}" --out "$work/mixed" >/dev/null
same "2 processes with AVX2 and 2 with the widest kernels" "$work/one" "$work/mixed"

# Three seeds on two processes, one after the other on one; stopped by a signal to one process, and continued by three.
"$resnet" train "${seeds[@]}" --shards 8 --out "$work/seeds" >/dev/null
mpi 2 train "${seeds[@]}" --out "$work/seeds-2" >/dev/null
same_seeds "three seeds on 2 processes" "$work/seeds" "$work/seeds-2"
stop_and_resume TERM 1 2 3
refused 2 "cannot share 2 runs of 1 shard" mpirun -n 3 "$resnet" train "${small[@]}" --shards 1 --repeat 2 --out "$work/none"
predicts_the_same 2 --threads 1 pictures
predicts_the_same 3 --json pictures/1/report.png pictures/3/broken.png
refused 1 "broken.png" mpirun -n 2 "$resnet" predict --strict "$work/pictures"
[ "$mode" = full ] || exit 0


# A full disk: the first process says so, and all end.
mkdir "$work/disk"
if mount -t tmpfs -o size=1600k tmpfs "$work/disk" 2>/dev/null; then
  trap 'umount "$work/disk"; rm -rf "$work"' EXIT
  refused 1 "No space left" mpirun -n 2 "$resnet" train "${long[@]}" --keep-checkpoints 9 --out "$work/disk/x"
else
  printf '!! SKIPPED: a disk of 1.6 MB cannot be mounted, so a full disk is NOT tested\n'
fi
# A process that dies before the first step, while it reads 60,000 images or compares them: no other waits for it.
if [ -n "${CIFAR10:-}" ]; then
  timeout 60 mpirun -n 3 "$resnet" train --data "$CIFAR10" --out "$work/dies" >/dev/null 2>&1 &
  run=$!
  sleep 0.5
  killed=$(pgrep -f -- "--out $work/dies" | while read -r pid; do
    [ "$(cat "/proc/$pid/comm")" = resnet ] && echo "$pid"; done | tail -1)
  kill -9 "$killed"
  begun=$SECONDS
  wait "$run" && fail "a process died, and the run went on"
  [ $((SECONDS - begun)) -le 10 ] || fail "a process died, and the others waited for $((SECONDS - begun)) s"
  printf 'ok: a process that dies before the first step\n'
else
  printf '!! SKIPPED: CIFAR10 is not set, so a process that dies before the first step is NOT tested\n'
fi

for model in resnet8 plain8 resnet20-b resnet18-cifar resnet50-cifar preact110 resnext50_32x4d; do
  rm -rf "$work/alone"
  options=(train --model "$model" --train-images 48 --batch-size 20 --epochs 2 "${everything[@]}" --validation 8)
  "$resnet" "${options[@]}" --shards 8 --out "$work/alone" >/dev/null
  for processes in 2 3 4 8; do
    for threads in 1 2; do
      rm -rf "$work/shared"
      mpi "$processes" "${options[@]}" --threads "$threads" --out "$work/shared" >/dev/null
      same "$model, $processes processes, $threads threads" "$work/alone" "$work/shared"
    done
  done
done
for seed in $(seq 3 22); do
  kill_and_resume "$seed" $((seed % 4 + 1))
done
refused 2 "cannot share 8 shards" mpirun -n 9 "$resnet" train "${small[@]}" --out "$work/none"
refused 2 "the reference trains on one process" mpirun -n 2 "$resnet" train --engine reference --out "$work/none"
refused 2 "the reference trains a run on one process" mpirun -n 3 "$resnet" train --engine reference --repeat 2 --out "$work/none"
for processes in 3 4 7; do
  rm -rf "$work/seeds-2"
  mpi "$processes" train "${seeds[@]}" --threads 1 --out "$work/seeds-2" >/dev/null
  same_seeds "three seeds on $processes processes" "$work/seeds" "$work/seeds-2"
done
for engine in fast reference; do
  rm -rf "$work/seeds-1" "$work/seeds-2"
  "$resnet" train "${seeds[@]:0:7}" 1 --engine "$engine" --shards 1 --out "$work/seeds-1" >/dev/null
  mpi 3 train "${seeds[@]:0:7}" 1 --engine "$engine" --shards 1 --out "$work/seeds-2" >/dev/null
  same_seeds "three seeds with one shard, $engine" "$work/seeds-1" "$work/seeds-2"
done
for case in "TERM 0 3 1" "TERM 4 5 2" "KILL 1 2 4" "KILL 3 5 3"; do
  stop_and_resume $case
done
refused 1 "another configuration than process 0" mpirun -n 1 "$resnet" train "${small[@]}" --repeat 2 --out "$work/none" \
  : -n 1 "$resnet" train "${small[@]}" --repeat 3 --out "$work/none"
for format in list table csv jsonl json; do
  for processes in 1 2 3 5; do
    predicts_the_same "$processes" --format "$format" --threads 1 --top 2 pictures absent.png
  done
done
predicts_the_same 8 pictures/1/report.png
predicts_the_same 2 pictures/3/broken.png
refused 1 "another list of pictures than process 0" mpirun -n 1 "$resnet" predict "$work/pictures" \
  : -n 1 "$resnet" predict "$work/pictures/1"
refused 1 "another configuration than process 0" mpirun -n 1 "$resnet" predict "$work/pictures" \
  : -n 1 "$resnet" predict --test-flip "$work/pictures"
refused 1 "nowhere" mpirun -n 1 "$resnet" predict "$work/pictures" \
  : -n 1 "$resnet" predict --weights "$work/nowhere" "$work/pictures"
cp "$resnet" "$work/changed" && printf x >>"$work/changed"
refused 1 "another program than process 0" mpirun -n 1 "$resnet" train "${small[@]}" --out "$work/none" \
  : -n 1 "$work/changed" train "${small[@]}" --out "$work/none"
refused 1 "nowhere" mpirun -n 1 "$resnet" train --data embedded --out "$work/none" \
  : -n 1 "$resnet" train --data "$work/nowhere" --out "$work/none"
