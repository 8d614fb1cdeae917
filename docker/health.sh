#!/bin/sh
# Healthy unless a run has stopped moving: training touches the file named here as it goes, and
# removes it at its end.
beat="${SD3TUNE_HEARTBEAT:-/tmp/sd3tune-heartbeat}"
[ -e "$beat" ] || { echo "no run"; exit 0; }
age=$(($(date +%s) - $(stat -c %Y "$beat")))
echo "a run moved $age s ago"
[ "$age" -lt "${SD3TUNE_HEARTBEAT_SECONDS:-900}" ]
