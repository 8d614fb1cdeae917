"""JupyterLab in the container: the password comes from the environment, and no file learns it.

Jupyter writes tokens and cookie secrets to its runtime folder, so there is no token, and the secret
is drawn anew by each start.
"""

import os

from jupyter_server.auth import passwd

password = os.environ.pop("JUPYTER_PASSWORD")
if len(password.encode()) < 12:  # the entrypoint says so too
    raise SystemExit("JUPYTER_PASSWORD needs 12 characters or more")
c = get_config()  # noqa: F821  jupyter_server's
c.PasswordIdentityProvider.hashed_password = passwd(password)
c.IdentityProvider.token = ""
c.ServerApp.cookie_secret = os.urandom(32)
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = int(os.environ.get("JUPYTER_PORT", "8888"))
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/workspace"
c.ServerApp.allow_root = True
c.ServerApp.allow_remote_access = True  # behind the platform's proxy
