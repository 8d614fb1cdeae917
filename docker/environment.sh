# shellcheck shell=bash
# Sourced by shells. sshd starts them with an empty environment: the container's is taken over from
# its first process, so that HF_TOKEN and the rest need no copy in any file. JupyterLab's password and
# the platform's keys, which rent and delete machines, are not for a shell and what it starts.
if [ -n "${BASH_VERSION:-}" ] && [ -n "${SSH_CONNECTION:-}" ] && [ -z "${SD3TUNE_IMAGE:-}" ] && [ -r /proc/1/environ ]; then
  while IFS= read -r -d '' sd3tune_pair; do
    case "${sd3tune_pair%%=*}" in
      JUPYTER_PASSWORD | JUPYTER_TOKEN | OPEN_BUTTON_TOKEN) ;;
      RUNPOD_API_KEY | CONTAINER_API_KEY | VAST_API_KEY) ;;
      HOME | USER | LOGNAME | SHELL | TERM | PWD | OLDPWD | SHLVL | HOSTNAME | _ | SSH_*) ;;
      *) export "${sd3tune_pair?}" ;;
    esac
  done </proc/1/environ
  unset sd3tune_pair
  if [ "$PWD" = "$HOME" ] && [ -t 0 ]; then cd /workspace || true; fi
fi
