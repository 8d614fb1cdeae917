"""Connects to the server of a bucket, with the keys of an entry or of the environment."""

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sd3tune.errors import DataError

if TYPE_CHECKING:
    from sd3tune.config.datasets.storage import BucketKeys

SESSION_TOKENS = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")


def connected(bucket: "BucketKeys", name: str) -> Any:
    """An s3fs file system; no request is made. name: the id of the entry, for errors. Raises
    DataError."""
    try:
        import s3fs
    except ImportError:
        raise DataError(
            f"dataset `{name}`: type=aws needs s3fs, which is not installed",
            hint="pip install 'sd3tune[s3]'",
        ) from None
    _keep_session_token(bucket, name)
    secret = bucket.aws_secret_access_key
    region = {"region_name": bucket.aws_region_name} if bucket.aws_region_name else {}
    return s3fs.S3FileSystem(
        key=bucket.aws_access_key_id,
        secret=secret.get_secret_value() if secret else None,
        endpoint_url=bucket.aws_endpoint_url,
        client_kwargs=region,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _keep_session_token(bucket: "BucketKeys", name: str) -> None:
    """Raises DataError if a session token of the environment would be sent to an endpoint other
    than Amazon's."""
    host = urlsplit(bucket.aws_endpoint_url or "").hostname or ""
    amazon = not host or host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    token = next((n for n in SESSION_TOKENS if os.environ.get(n)), None)
    if token and not amazon and not (bucket.aws_access_key_id and bucket.aws_secret_access_key):
        raise DataError(
            f"dataset `{name}`: `aws_endpoint_url={bucket.aws_endpoint_url}` is not Amazon's, and "
            f"{token} of the environment would be sent to it",
            hint="set aws_access_key_id and aws_secret_access_key in the dataset, as "
            f"{{env:NAME}}, or unset {token}",
        )
