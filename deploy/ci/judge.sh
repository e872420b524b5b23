#!/usr/bin/env bash
# Serve a pair, replay until its gate is settled, and write the report: judge.sh GATE OUT OPTION...
#
# OPTIONs are those of client.bench, such as --tasks. The server takes its settings from QCONF_MODEL, QCONF_QUANTIZED and so
# on (without both, the demo pair), and further arguments from QCONF_ARGS. OUT gets run/, report.html, report.md,
# report.json and server.log. The exit code is that of client.bench: 3 where a rule failed.
set -euo pipefail
gate=$1
out=$2
shift 2

mkdir -p "$out"
read -ra arguments <<<"${QCONF_ARGS:-}"
# Port 0: on a machine that runs several jobs, the ready server must be this one.
python -m server --port 0 "${arguments[@]}" >"$out/server.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null && wait "$server"' EXIT

until url=$(grep -oPm1 'ready on \Khttp\S+' "$out/server.log"); do
  kill -0 "$server" 2>/dev/null || { tail -n 20 "$out/server.log" >&2; exit 1; }
  sleep 1
done

code=0
python -m client.bench --url "$url" "$@" --until "$gate" --out "$out/run" || code=$?
# What was refused or interrupted has no run to report on.
if [ -f "$out/run/manifest.json" ]; then
  python -m eval report "$out/run" --out "$out/report.html"
fi
exit "$code"
