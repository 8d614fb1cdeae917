#!/usr/bin/env bash
# What a container of sd3tune does when it starts: look at the machine, start the services that were
# asked for, then run the command, or wait where a platform expects the container to stay.
#
#   docker run … IMAGE train config/config.json     any command of sd3tune
#   docker run … IMAGE bash                         another program
#   docker run … IMAGE                              doctor; stays up when a service was asked for,
#                                                   and passes SIGTERM to runs started from a shell
#
#   PUBLIC_KEY, SSH_PUBLIC_KEY   start sshd and let these keys in
#   JUPYTER_PASSWORD             start JupyterLab on port 8888; 12 characters or more
#   SD3TUNE_STOP_POD             success or always: stop this RunPod or Vast instance after the command
#
# No secret goes to a file, to the log, or into a command line. The password is JupyterLab's alone, and
# the platform's key is that of `stop-pod` alone: no run, shell or notebook has them in its environment.
set -euo pipefail
export PYTHONSAFEPATH=1  # no program imports from its working directory, where it starts in /workspace
declare +x RUNPOD_API_KEY CONTAINER_API_KEY JUPYTER_PASSWORD  # ours, and no child's
MIN_PASSWORD=12  # characters
say() { printf 'sd3tune: %s\n' "$1" >&2; }

prepare_home() {  # a user without a name, or a read-only root: caches and settings need a place
  if [ ! -w "${HOME:-/}" ]; then export HOME=/tmp; fi
  export USER="${USER:-sd3tune}" LOGNAME="${LOGNAME:-sd3tune}"
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }  # the platform's own, or an earlier start

start_ssh() {
  if [ "$(id -u)" != 0 ]; then say "SSH was asked for and needs root: not started"; return; fi
  if listens 22; then say "something listens on port 22: sshd not started"; return; fi
  local home; home="$(getent passwd root | cut -d: -f6)"  # not $HOME: sshd asks the account
  install -d -m 700 "$home/.ssh"
  (umask 077; printf '%s\n' ${PUBLIC_KEY:+"$PUBLIC_KEY"} ${SSH_PUBLIC_KEY:+"$SSH_PUBLIC_KEY"} >>"$home/.ssh/authorized_keys")
  ssh-keygen -A >/dev/null
  mkdir -p /run/sshd
  env -i PATH="$PATH" /usr/sbin/sshd
  say "SSH on port 22 for $(grep -c . "$home/.ssh/authorized_keys") key(s)"
}

start_jupyter() {
  local port="${JUPYTER_PORT:-8888}"
  if listens "$port"; then say "something listens on port $port: JupyterLab not started"; return; fi
  JUPYTER_PASSWORD="$JUPYTER_PASSWORD" JUPYTER_CONFIG_DIR=/opt/jupyter JUPYTER_RUNTIME_DIR="$(mktemp -d)" JUPYTER_DATA_DIR="$(mktemp -d)" \
    SHELL=/bin/bash jupyter lab --no-browser >/tmp/jupyter.log 2>&1 &
  say "JupyterLab on port $port, log in /tmp/jupyter.log"
}

trains() { [ "${1:-}" = train ] && [[ " $* " != *" --dry-run "* ]] && [[ " $* " != *" --help "* ]]; }

stop_pod() {
  RUNPOD_API_KEY="${RUNPOD_API_KEY:-}" CONTAINER_API_KEY="${CONTAINER_API_KEY:-}" \
    sd3tune image stop-pod --after "$1"
}

# `run CMD…`: runs it, passes SIGTERM and SIGINT on once, and leaves its exit code in $code.
run() {
  "$@" &
  local child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true; stopped=1' TERM
  trap 'kill -INT "$child" 2>/dev/null || true; stopped=1' INT
  code=0
  while kill -0 "$child" 2>/dev/null; do wait "$child" && code=0 || code=$?; done
}

# Whether this folder of /proc is `sd3tune train`, by itself or through this script.
is_run() {
  local words
  mapfile -d '' -t words 2>/dev/null <"$1/cmdline" || return 1
  [[ "${words[*]:0:4}" =~ ^[^\ ]+\ (-m\ |[^\ ]*/)?sd3tune(-entrypoint)?\ train($|\ ) ]]
}

# Process ids of the runs in this container; of several processes the one that started the others.
runs() {
  local folder parent
  for folder in /proc/[0-9]*; do
    is_run "$folder" || continue
    parent="$(sed -n 's/^PPid:[[:space:]]*//p' "$folder/status" 2>/dev/null)" || continue
    is_run "/proc/$parent" || echo "${folder#/proc/}"
  done
}

# Runs that were started from a shell: the platform's SIGTERM comes here, and they must save as well.
stay() {
  local found one sleeper
  trap 'true' TERM INT
  sleep infinity &
  sleeper=$!
  wait "$sleeper" || true
  kill "$sleeper" 2>/dev/null || true
  found="$(runs)"
  for one in $found; do say "stopping run $one"; kill -TERM "$one" 2>/dev/null || true; done
  for one in $found; do while kill -0 "$one" 2>/dev/null; do sleep 0.2; done; done
  exit 143
}

prepare_home
serves=""
if [ -n "${PUBLIC_KEY:-}${SSH_PUBLIC_KEY:-}" ]; then start_ssh; serves=1; fi
if [ -n "${JUPYTER_PASSWORD:-}" ] && [ "${#JUPYTER_PASSWORD}" -lt "$MIN_PASSWORD" ]; then
  say "JUPYTER_PASSWORD is shorter than $MIN_PASSWORD characters: JupyterLab not started"
elif [ -n "${JUPYTER_PASSWORD:-}" ]; then
  start_jupyter
  serves=1
fi
unset JUPYTER_PASSWORD

if [ -z "$*" ]; then  # an empty word is what some platforms make of no word
  code=0
  sd3tune doctor >&2 || code=$?
  if [ -z "$serves${RUNPOD_POD_ID:-}${VAST_CONTAINERLABEL:-}" ]; then
    say "no command was given; for example: docker run … IMAGE train config/config.json"
    exit "$code"
  fi
  say "waiting; put your project in /workspace and run sd3tune train"
  stay
fi

# A program of the image; not a word of bash's own, such as export.
if [ "$1" != sd3tune ] && ! type -P -- "$1" >/dev/null; then set -- sd3tune "$@"; fi
if [ "$1" = sd3tune ] && trains "${@:2}"; then
  sd3tune doctor --quick >&2 || true  # train asks for itself, and refuses for itself
  if [ "${SD3TUNE_STOP_POD:-never}" != never ]; then
    stopped=""
    run "$@"
    # Stopped from outside: the platform is taking the machine away, or the user wants it.
    if [ -z "$stopped" ]; then stop_pod "$code" >&2 || true; fi
    exit "$code"
  fi
fi
exec "$@"
