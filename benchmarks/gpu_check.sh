#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: every test marked gpu, then the GPU benchmarks, in 8 minutes.
#   benchmarks/gpu_check.sh DIR
# needs zarr, zarrs, numcodecs, google-crc32c, safetensors, threadpoolctl, tqdm, click, Pillow and
# pytest with hypothesis beside CuPy, SciPy and PyTorch; it writes DIR/tests.txt, DIR/gpu.md, and
# DIR/gpu.json, which belongs into benchmarks/results/; the status is that of what failed first.
set -uo pipefail
dir=${1:?usage: benchmarks/gpu_check.sh DIR}
python=${PYTHON:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/engine:$here/cli${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$dir" && dir=$(cd "$dir" && pwd) && cd "$here" || exit

timeout -k 5 230 "$python" -m pytest -o addopts= -q -m gpu tests/test_gpu.py tests/test_devices.py \
    2>&1 | tee "$dir/tests.txt"
tests=$?
timeout -k 5 235 "$python" benchmarks/gpu.py "$dir"
figures=$?
exit $((tests ? tests : figures))
