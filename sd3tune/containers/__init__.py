"""`sd3tune image`: builds, runs and checks the container images on the user's own host.

Containers themselves need nothing of this: on RunPod, Vast.ai or Kubernetes the platform starts the
image (docker/templates, docs/guides/clouds.md).
"""
