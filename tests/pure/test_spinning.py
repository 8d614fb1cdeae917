"""OpenMP threads that wait do not take the cores of those that work, unless the user wants it."""

import os
import subprocess
import sys

import pytest

SHOW = "import os, sys; sys.argv[1:] = ['--help']; from sd3tune.__main__ import main\ntry: main()\n"
SHOW += "finally: print('spins', os.environ.get('GOMP_SPINCOUNT'))"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
)
def test_waiting_threads_sleep_soon_and_the_users_variables_hold(
    given: dict[str, str], spins: str
) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    ran = subprocess.run([sys.executable, "-c", SHOW], env=kept | given, capture_output=True,
                         text=True, check=True)  # fmt: skip
    assert ran.stdout.endswith(f"spins {spins}\n")
