#!/usr/bin/env bash
# Everything that only a machine with a GPU can tell, in one JSON file:
#
#   make .venv-dev/.ready && .venv-dev/bin/pip install 'onnxruntime-gpu[cuda,cudnn]' 'tensorrt-cu13<11'
#   bash deploy/gpu_check.sh [--python .venv-dev/bin/python] [--model FILE.onnx] [--out gpu_check.json] [--quick] [PROVIDER ...]
#
# Providers: cpu cuda tensorrt, all of them unless some are named. A step that fails is written down with its last words,
# and the rest goes on; the exit code is 1 if any failed. Please attach the file to an issue: it holds versions, GPU names,
# times and answers' differences; no picture, no path outside this folder, no host name.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

python=.venv-dev/bin/python model=perception/assets/drive-n.onnx out=gpu_check.json quick="" providers=()
while (($#)); do
  case $1 in
    --python) python=${2:?} && shift 2 ;;
    --model) model=${2:?} && shift 2 ;;
    --out) out=${2:?} && shift 2 ;;
    --quick) quick=yes && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
    cpu | cuda | tensorrt) providers+=("$1") && shift ;;
    *) echo "error: unknown option $1; try --help" >&2 && exit 2 ;;
  esac
done
((${#providers[@]})) || providers=(cpu cuda tensorrt)
[[ -f $model ]] || { echo "error: no model file at $model" >&2 && exit 2; }
"$python" -c 'import perception' 2>/dev/null || { echo "error: $python can not import perception; name another with --python" >&2 && exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
count=0 failed=0

# step NAME COMMAND...: run it with --json FILE at its end; what it printed and how it ended are kept
step() {
  local name=$1 begin=$SECONDS code=0
  shift
  count=$((count + 1))
  local at
  at=$work/$(printf %03d "$count")
  printf '%s\n' "$name" >"$at.name"
  printf '%-40s' "$name"
  "$@" --json "$at.json" >"$at.out" 2>"$at.err" </dev/null || code=$?
  printf '%s %s\n' "$code" "$((SECONDS - begin))" >"$at.code"
  if ((code)); then
    failed=$((failed + 1))
    printf 'failed (%s): %s\n' "$code" "$(tail -n 1 "$at.err" | cut -c1-200)"
  else
    printf 'ok, %s s\n' "$((SECONDS - begin))"
  fi
}

step "doctor" "$python" -m perception.doctor
files=("$model")
for precision in fp16 int8; do
  file=$work/$precision.onnx
  step "export $precision" "$python" -m perception.export "$model" --out "$file" --precision "$precision"
  [[ -f $file ]] && files+=("$file")
done
for provider in "${providers[@]}"; do
  for file in "${files[@]}"; do
    name="$provider $(basename "$file" .onnx)"
    if [[ $provider == tensorrt && $file == */int8.onnx ]]; then continue; fi # made for CPUs: TensorRT has its own scales
    step "agreement $name" "$python" deploy/agreement.py "$model" "$file" --provider "$provider"
    step "latency $name" "$python" benchmarks/latency.py "$file" --provider "$provider" ${quick:+--runs 5 --rounds 1 --queries 3}
    step "live $name" "$python" benchmarks/live_fps.py --model "$file" --provider "$provider" ${quick:+--frames 10 --rounds 1}
  done
done

"$python" - "$work" "$out" <<'END'
import json, subprocess, sys
from pathlib import Path

work, out = map(Path, sys.argv[1:])
steps = []
for name in sorted(work.glob("*.name")):
    code, seconds = map(int, name.with_suffix(".code").read_text().split())
    step = {"step": name.read_text().strip(), "exit": code, "seconds": seconds}
    result = name.with_suffix(".json")
    if result.is_file():
        step["result"] = json.loads(result.read_text())
    if code:
        step["said"] = name.with_suffix(".err").read_text(errors="replace").replace(str(work), "WORK").splitlines()[-15:]
    steps.append(step)
revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
draft = out.with_name(out.name + ".part")
draft.write_text(json.dumps({"schema": 1, "revision": revision, "steps": steps}, indent=1) + "\n")
draft.replace(out)
END
echo "wrote $out; $failed of $count steps failed"
((failed == 0))
