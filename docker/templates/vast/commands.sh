#!/usr/bin/env bash
# Vast.ai from its own command line (pip install vastai; vastai set api-key …). Not a script to run
# whole: take the lines you need. Checked against vastai 1.9.1; not run on the platform by us.
# The image is yours: none is published. Instances see HF_TOKEN when it is one of the account's
# environment variables (page Settings of the console, or `vastai create env-var`).
set -eu
OFFER="${OFFER:?the id of an offer, first column of a search}"
KEY="${KEY:-$HOME/.ssh/id_ed25519.pub}"

# 1. A machine. The image carries CUDA 13: without cuda_max_good the container does not start on
#    machines with an older driver. gpu_ram in GB; compute_cap in hundreds: its wheels begin with 7.5.
vastai search offers 'cuda_max_good>=13.0 compute_cap>=750 gpu_ram>=24 num_gpus=1 disk_space>=200 direct_port_count>=2 inet_down>=200' -o 'dph_total'
# Interruptible ones (spot), with the price to beat in min_bid:
vastai search offers 'cuda_max_good>=13.0 compute_cap>=750 gpu_ram>=24 num_gpus=1 disk_space>=200' --type bid -o 'min_bid'
# AMD: the rocm image; cuda_max_good says nothing there.
vastai search offers 'gpu_arch=amd gpu_ram>=24 num_gpus=1 disk_space>=200 direct_port_count>=2' -o 'dph_total'

# 2. A shell. --ssh replaces the image's ENTRYPOINT by Vast's own, which brings its own sshd.
vastai create instance "$OFFER" --image registry.example.com/sd3tune:cuda --disk 200 --label sd3tune --ssh --direct --cancel-unavail --onstart-cmd 'sd3tune doctor > /workspace/doctor.txt 2>&1 || true'

# 3. Or the image as it is: its ENTRYPOINT says what the machine can do, starts SSH for your key, and
#    waits. `--args` chooses this mode, and must be last; empty: no command.
vastai create instance "$OFFER" --image registry.example.com/sd3tune:cuda --disk 200 --label sd3tune --cancel-unavail --env "-p 22:22 -e SSH_PUBLIC_KEY='$(cat "$KEY")'" --args ''

# 4. Or trains at once, what is in /workspace of a volume, and stops the instance at the end.
vastai create instance "$OFFER" --image registry.example.com/sd3tune:cuda --disk 60 --label sd3tune --cancel-unavail --link-volume "${VOLUME:?the id of a volume}" --mount-path /workspace --env '-e SD3TUNE_STOP_POD=always' --args train /workspace/config/config.json checkpointing_rolling_steps=50

# 5. The same for less, until somebody bids more: then it stands still, and when the bid is the
#    highest again the same command runs and continues.
vastai create instance "$OFFER" --image registry.example.com/sd3tune:cuda --disk 60 --label sd3tune --bid_price 0.30 --link-volume "${VOLUME:?the id of a volume}" --mount-path /workspace --args train /workspace/config/config.json checkpointing_rolling_steps=50

# A template for the web page (mode ssh). The mode with arguments has no command line for templates:
# template-train.json goes to the API.
vastai create template --name sd3tune-ssh --image registry.example.com/sd3tune --image_tag cuda --ssh --direct --disk_space 200 --onstart-cmd 'sd3tune doctor > /workspace/doctor.txt 2>&1 || true' --search_params 'cuda_max_good>=13.0 compute_cap>=750 gpu_ram>=24 disk_space>=200'
