#!/usr/bin/env bash
# Replay a day of recorded calls and report on it: report.sh URL RECORD DAY OUT
#
# RECORD is the folder of --shadow-record with --shadow-record-tokens, DAY as in 2026-11-27. OUT gets run/ and report.html.
set -euo pipefail
url=$1
record=$2
day=$3
out=$4

python -m client.bench --url "$url" --requests "$record/calls-$day.jsonl" --concurrency 4 --out "$out/run"
python -m eval report "$out/run" --out "$out/report.html"
