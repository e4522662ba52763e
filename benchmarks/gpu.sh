#!/usr/bin/env bash
# Everything to know of a machine with a GPU, unattended, in under nine minutes:
#   benchmarks/gpu.sh RAW [OUT]
# RAW: ACDC's raw folders (training/patientNNN/...). OUT: where tables and curves go; default gpu_results.
# 1. the fast path against float32 eager, and resuming bit for bit; 2. the step table; 3. as many steps of
# configs/cmems/unet_acdc.py as fit, with the validation DSC over time.
# Where 64 MiB is what may be handed to the machine: the first 35 patients of splits/train.txt (patient005, of exemplar A,
# is one), the 10 of splits/val.txt and this repository fit.
set -euo pipefail
raw=$(realpath "${1:?usage: benchmarks/gpu.sh RAW [OUT]}")
out=$(realpath -m "${2:-gpu_results}")
python=${PYTHON:-python}
config=${CONFIG:-configs/cmems/unet_acdc.py}
budget=${BUDGET:-520} # seconds, after the data is prepared
mkdir -p "$out"
cd "$(dirname "$0")/.."
[ -d data/acdc_224 ] || "$python" tools/prepare_data.py acdc "$raw" data/acdc_224
deadline=$(($(date +%s) + budget))
status=0
# The variants left out change nothing on a GPU. Eight short runs, most of them start-up: 46 s at 128x128 on an H200.
timeout --signal=INT $((budget * 3 / 10)) "$python" benchmarks/fast_path.py "$config" --steps 40 \
    --without "torch.compile" "views in one batch" "channels_last, compiled kernels" "optimiser unfused" \
    --out "$out/fast_path.json" 2>&1 | tee "$out/fast_path.txt" || status=1
timeout --signal=INT $((budget / 5)) "$python" benchmarks/step.py "$config" --rounds 20 --workers 8 \
    --out "$out/step.json" 2>&1 | tee "$out/step.txt" || status=1
left=$((deadline - $(date +%s) - 15))
# An interrupted run leaves its log, curves and last.pth: time running out is no failure.
timeout --signal=INT "$left" "$python" tools/train.py "$config" --amp --work-dir "$out/acdc" \
    --cfg-options train_cfg.val_interval=3000 2>&1 | tee "$out/train.txt" || [ "${PIPESTATUS[0]}" -eq 124 ] || status=1
exit $status
