#!/usr/bin/env bash
# All that a GPU is needed for, in one call of under nine minutes: tests of the kernels, kernels
# against their floors, calibration, the fitted profile, and real against predicted runs.
#
#   OUT        where results go (default ./out): summary.txt, and everything else in gpu-run.tar.gz
#   MODELS     measured one after the other as far as time allows
#   BUDGET_S   seconds in all
#   WHEELS     a folder of wheels for what python3 lacks, where there is no network
#
# Needs python3 with torch and triton, the package's requirements (pip install .), pytest and
# hypothesis; no network.
# Every stage leaves what it measured behind, also when a later one fails or time runs out.
set -uo pipefail
OUT=$(mkdir -p "${OUT:-./out}" && cd "${OUT:-./out}" && pwd) || exit 2
[ -z "${WHEELS:-}" ] || WHEELS=$(cd "$WHEELS" && pwd) || exit 2
cd "$(dirname "$0")/.."

BUDGET_S=${BUDGET_S:-490}
MODELS=${MODELS:-llama-3.1-8b qwen3-30b-a3b qwen3-14b}
out=$OUT
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TRITON_INTERPRET=0

if [ -n "${WHEELS:-}" ]; then
  python3 -m pip install --quiet --no-index --no-deps --target "$work/site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH="$work/site:${PYTHONPATH:-}"
fi
missing=$(python3 - <<'PY'
from importlib.util import find_spec
needed = ("torch", "triton", "click", "numpy", "packaging", "pandas", "plotly", "pyarrow", "pydantic",
          "pydantic_core", "annotated_types", "typing_inspection", "yaml", "rich", "scipy", "simpy",
          "threadpoolctl", "pytest", "hypothesis")
print(" ".join(name for name in needed if find_spec(name) is None))
PY
)
if [ -n "$missing" ]; then
  echo "Error: python3 lacks $missing; install them, or name a folder of their wheels as WHEELS" >&2
  exit 2
fi
if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "Error: torch sees no CUDA device here" >&2
  exit 2
fi

say() { echo "$@" | tee -a "$out/summary.txt"; }

keep() {  # what there is so far, in one file that is never half written
  tar -czf "$out/gpu-run.part" -C "$work/run" . && mv "$out/gpu-run.part" "$out/gpu-run.tar.gz"
}

stage() {  # name, most seconds, command
  local name=$1 limit=$2 left=$((BUDGET_S - SECONDS)) began=$SECONDS status=0
  shift 2
  if [ "$left" -lt 15 ]; then
    say "$name: no time left"
    failed=1
    return 1
  fi
  timeout --signal=INT --kill-after=10 "$((left < limit ? left : limit))" "$@" \
    >"$work/run/$name.log" 2>&1 || status=$?
  say "$name: exit $status after $((SECONDS - began)) s"
  [ "$status" -eq 0 ] || { tail -n 4 "$work/run/$name.log"; failed=1; }
  keep
  return "$status"
}

mkdir -p "$work/run/profiles"
: >"$out/summary.txt"
cp hardware_profiles/*.yaml "$work/run/profiles/"
known=$(python3 - <<'PY'
import torch
name = torch.cuda.get_device_name()
print("h200-sxm" if "H200" in name else "h100-sxm" if "H100" in name else
      "b200-sxm" if "B200" in name else "a100-sxm-80gb" if "A100" in name else "")
PY
)
profile=""
say "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null)"
python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)' \
  | tee -a "$out/summary.txt"

measured="$work/run/measured"

workers=$(python3 -c 'import xdist; print("-n 8")' 2>/dev/null)
# shellcheck disable=SC2086 # two words
stage tests 110 python3 -m pytest -q $workers -o addopts= -o filterwarnings=default -p no:cacheprovider \
  tests/test_kernels_attention.py tests/test_kernels_elementwise.py tests/test_kernels_matmul.py \
  tests/test_kernels_experts.py
tail -n 1 "$work/run/tests.log" | tee -a "$out/summary.txt"

stage configs 60 python3 -m calibration.measure.configs

for model in $MODELS; do
  # Where measuring or fitting runs out of time, what there is still predicts.
  stage "calibrate-$model" 160 python3 -m simulator calibrate --device cuda --out "$measured" \
    --model "$model"
  if [ -n "$known" ]; then
    stage "fit-$model" 40 python3 -m simulator fit --measured "$measured" --device "$known" \
      --profiles "$work/run/profiles" --write
    profile=$known
  elif stage "fit-$model" 40 python3 -m simulator fit --measured "$measured" --tdp-w 700 \
    --idle-w 70 --out "$work/run/profiles/here.yaml"; then
    profile=here
  fi
  [ -n "$profile" ] || continue
  stage "validate-$model" 110 python3 -m simulator validate --engine micro-engine-gpu \
    --device cuda --set "model=$model" --set "hardware.profile=$work/run/profiles/$profile.yaml" \
    --set workload.requests=100 --rates 0.4,0.8,1.1 --out "$work/run/validate-$model" \
    --html "$work/run/validate-$model.html" --markdown "$work/run/validate-$model.md"
done

say ""
grep -E "^(decode|prefill)" "$work/run/configs.log" 2>/dev/null \
  | awk '{ key = substr($0, 1, 42) } key != last { print; last = key }' | tee -a "$out/summary.txt"
say ""
timeout 15 python3 -m calibration.measure.floors "$measured" --all >"$work/run/floors.txt" 2>&1
timeout 15 python3 -m calibration.measure.floors "$measured" 2>&1 | tee -a "$out/summary.txt"
for model in $MODELS; do
  [ -f "$work/run/validate-$model.md" ] || continue
  say ""
  say "$model, real against predicted"
  head -n 40 "$work/run/validate-$model.md" | tee -a "$out/summary.txt"
done
keep
say ""
say "$SECONDS s in all; everything is in gpu-run.tar.gz"
exit "$failed"
