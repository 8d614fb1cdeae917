# The image for NVIDIA with a CUDA compiler, for extensions that come as source only, as
# SageAttention 2. nvcc is PyPI's, of the CUDA that PyTorch was built with; a distribution's
# nvidia-cuda-toolkit is of another one, which PyTorch refuses. How to use it: docker/README.md
ARG IMAGE=sd3tune:cuda
# hadolint ignore=DL3006
FROM ${IMAGE}
COPY locks/tools.txt locks/nvcc.txt /locks/
RUN --mount=type=cache,target=/root/.cache \
    --mount=type=secret,id=ca,target=/run/secrets/ca.pem \
    if [ -s /run/secrets/ca.pem ]; then export SSL_CERT_FILE=/run/secrets/ca.pem PIP_CERT=/run/secrets/ca.pem; fi \
 && python3 -m venv /opt/tools \
 && /opt/tools/bin/pip install --disable-pip-version-check --require-hashes -r /locks/tools.txt \
 && UV_LINK_MODE=copy /opt/tools/bin/uv pip install --python /opt/venv/bin/python --no-deps --require-hashes \
      --requirement /locks/nvcc.txt \
 && ln -s /opt/tools/bin/uv /usr/local/bin/uv \
 && ln -s "$(echo /opt/venv/lib/python3.*/site-packages)/nvidia/cu13" /opt/cuda \
 && ln -s libcudart.so.13 /opt/cuda/lib/libcudart.so
ENV CUDA_HOME=/opt/cuda PATH=/opt/cuda/bin:$PATH
