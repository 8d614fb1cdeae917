"""A function, as a user who may do nothing: permissions say nothing to root."""

import json
import os
from collections.abc import Callable
from typing import Any

NOBODY = 65534


def as_nobody(function: Callable[[], Any]) -> Any:
    """Its answer, which is JSON. Root forks; everybody else is nobody already."""
    if os.getuid() != 0:
        return function()
    answer, question = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(question, json.dumps(function()).encode())
        except BaseException as e:
            os.write(question, json.dumps(f"{type(e).__name__}: {e}").encode())
        finally:
            os._exit(0)
    os.close(question)
    with os.fdopen(answer) as said:
        text = said.read()
    os.waitpid(child, 0)
    return json.loads(text)
