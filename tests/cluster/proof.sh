#!/usr/bin/env bash
# A run on several processes has the bits of a run on one: bash tests/cluster/proof.sh [short|full]
#
# RESNET is a `resnet` built with --features mpi. Needs Open MPI's mpirun; every mpirun ends after a time limit.
#   short  two processes, a kill, a resumed run, a process that disagrees; about a minute
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
refused 2 "repeat trains one run" mpirun -n 2 "$resnet" train --repeat 2 --out "$work/none"
cp "$resnet" "$work/changed" && printf x >>"$work/changed"
refused 1 "another program than process 0" mpirun -n 1 "$resnet" train "${small[@]}" --out "$work/none" \
  : -n 1 "$work/changed" train "${small[@]}" --out "$work/none"
refused 1 "nowhere" mpirun -n 1 "$resnet" train --data embedded --out "$work/none" \
  : -n 1 "$resnet" train --data "$work/nowhere" --out "$work/none"
