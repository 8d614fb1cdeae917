# sd3tune for AMD. PyTorch's wheels bring the ROCm libraries, the host brings the driver (amdgpu).
# The diff to docker/cuda.Dockerfile is the vendor; a test says so. How to build: docker/README.md
ARG BASE_IMAGE=ubuntu:24.04@sha256:008173c23f95b170204355c12626cb5a965d779a7e1283b09e9cffbb1bf33ca3

# What the system gives: Python, a compiler (torch.compile needs one when it runs), init, SSH.
FROM ${BASE_IMAGE} AS base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Private host keys come with openssh-server: removed here, made anew by each container.
# hadolint ignore=DL3008
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean \
 && apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates g++ openssh-server python3 python3-dev python3-venv rsync tini tmux \
 && rm -rf /etc/ssh/ssh_host_* /var/log/apt /var/log/*.log /var/cache/ldconfig/aux-cache \
 && python3 -m compileall -q --invalidation-mode unchecked-hash "$(python3 -c 'import os; print(os.path.dirname(os.__file__))')"

# What only the build needs.
FROM base AS tools
COPY docker/locks/tools.txt /locks/
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi \
 && python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --disable-pip-version-check --require-hashes -r /locks/tools.txt

# Every package with its hash: gigabytes that a change of sd3tune leaves alone.
FROM base AS packages
ARG LOCK=rocm
COPY docker/locks/${LOCK}.txt /locks/packages.txt
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    --mount=type=secret,id=links,target=/run/secrets/links \
    if [ -s /run/secrets/ca.pem ]; then export SSL_CERT_FILE=/run/secrets/ca.pem; fi \
 && if [ -s /run/secrets/links ]; then UV_FIND_LINKS="$(cat /run/secrets/links)"; export UV_FIND_LINKS; fi \
 && export UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH \
 && python3 -m venv --without-pip /opt/venv \
 && /opt/tools/bin/uv pip install --python /opt/venv/bin/python --no-deps --require-hashes \
      --compile-bytecode --requirement /locks/packages.txt \
 && echo /opt/sd3tune > "$(echo /opt/venv/lib/python3.*/site-packages)/sd3tune.pth"

# AMD's monitoring library is asked by doctor in a process of its own. Where `import torch` could find
# it, PyTorch would count devices with it and may see none (pytorch/pytorch#186516).
COPY docker/locks/amdsmi.txt /locks/
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export SSL_CERT_FILE=/run/secrets/ca.pem; fi \
 && UV_LINK_MODE=copy /opt/tools/bin/uv pip install --python /opt/venv/bin/python --no-deps \
      --require-hashes --target /opt/amdsmi --requirement /locks/amdsmi.txt

# sd3tune itself, without its packages.
FROM packages AS application
COPY pyproject.toml README.md LICENSE /source/
COPY sd3tune /source/sd3tune
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    PYC_INVALIDATION_MODE=UNCHECKED_HASH /opt/tools/bin/uv pip install --offline --no-deps \
      --no-build-isolation --no-cache --compile-bytecode --python /opt/venv/bin/python \
      --target /opt/sd3tune /source

# The bill of materials: every Python package, in CycloneDX.
FROM packages AS materials
COPY pyproject.toml /source/
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    /opt/tools/bin/cyclonedx-py environment --output-reproducible --pyproject /source/pyproject.toml \
      --output-file /sbom.json /opt/venv/bin/python

FROM packages AS runtime
COPY docker/environment.sh /etc/profile.d/sd3tune.sh
COPY docker/sshd.conf /etc/ssh/sshd_config.d/sd3tune.conf
COPY docker/jupyter.py /opt/jupyter/jupyter_server_config.py
COPY --chmod=0755 docker/entrypoint.sh /usr/local/bin/sd3tune-entrypoint
COPY --chmod=0755 docker/health.sh /usr/local/bin/sd3tune-health
RUN ln -s /opt/sd3tune/bin/sd3tune /usr/local/bin/sd3tune \
 && sed -i '1i . /etc/profile.d/sd3tune.sh' /etc/bash.bashrc \
 && (getent group render >/dev/null || groupadd --system render) \
 && mkdir -p /workspace && chmod 1777 /workspace
WORKDIR /workspace
COPY --from=materials /sbom.json /usr/share/sd3tune/sbom.json
COPY --from=application /opt/sd3tune /opt/sd3tune
ENV SD3TUNE_IMAGE=rocm \
    SD3TUNE_AMDSMI=/opt/amdsmi \
    PYTHONSAFEPATH=1 \
    PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HF_HOME=/workspace/.cache/huggingface \
    XDG_CACHE_HOME=/workspace/.cache \
    TRITON_CACHE_DIR=/workspace/.cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/workspace/.cache/torchinductor \
    SD3TUNE_HEARTBEAT=/tmp/sd3tune-heartbeat
VOLUME ["/workspace"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=60s --timeout=5s CMD ["sd3tune-health"]
ARG VERSION=unknown
ARG REVISION=unknown
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="sd3tune" \
      org.opencontainers.image.description="Fine-tune Stable Diffusion 3 and 3.5 on AMD GPUs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
ENTRYPOINT ["tini", "--", "sd3tune-entrypoint"]
CMD []
