"""Python looks for unused objects seldom while a command starts, and as usual afterwards."""

import json
import subprocess
import sys

# `sd3tune --version`, then 100,000 objects that stay: how often Python looked, and what it looks at
# from then on.
CODE = """
import gc, json, sys
from sd3tune import __main__, garbage
sys.argv = ["sd3tune", "--version"]
try:
    __main__.main()
except SystemExit:
    pass
looked = []
gc.callbacks.append(lambda phase, info: looked.append(phase))
kept = [[number] for number in range(100_000)]
while_starting = len(looked)
garbage.look_as_usual()
frozen = gc.get_freeze_count()
more = [[number] for number in range(10_000)]
print(json.dumps([while_starting, frozen > len(kept), gc.get_threshold() == garbage.USUAL,
                  len(looked) > 0]))
"""


def test_python_looks_for_unused_objects_seldom_until_a_model_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, True, True, True]
