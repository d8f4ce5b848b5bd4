#!/usr/bin/env bash
# Runs targets one after another, each for SECONDS_EACH (605) seconds, reading and extending the corpus: bash run.sh [TARGET ..]
# SANITIZER=address adds AddressSanitizer, at a fifth of the speed.
set -euo pipefail
cd "$(dirname "$0")"
targets=("$@")
[ $# -gt 0 ] || targets=(npy npz safetensors pth pth_old cifar_python cifar_archive picture)
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
  cargo fuzz run --fuzz-dir . --sanitizer "${SANITIZER:-none}" "$target" -- -max_total_time="${SECONDS_EACH:-605}" -timeout=10 \
    -max_len=4096 -rss_limit_mb=4096 -dict=dictionary.txt -print_final_stats=1
done
