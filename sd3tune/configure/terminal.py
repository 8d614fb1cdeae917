"""Reading a line in a terminal, with prompt_toolkit: editing, and folders that Tab completes.

No colour and no cursor position is asked for, so that it works over SSH, in 80 columns and with
TERM=dumb.
"""

import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, DummyCompleter, PathCompleter
from prompt_toolkit.input import Input
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output

from sd3tune.errors import ConfigError


class Terminal:
    """source, screen: for programs that are not a terminal; None: this process's own."""

    def __init__(self, source: Input | None = None, screen: Output | None = None) -> None:
        screen = screen or create_output()
        if isinstance(screen, Vt100_Output):
            screen.enable_cpr = False  # some terminals answer late, and the answer is seen as typed
        self._session: PromptSession[str] = PromptSession(
            input=source, output=screen, color_depth=ColorDepth.DEPTH_1_BIT
        )
        self._paths = PathCompleter(only_directories=True, expanduser=True)

    def ask(self, prompt: str, completes: str) -> str:
        """The line that is typed. completes: `path` where it is a folder. Raises EOFError and
        KeyboardInterrupt."""
        completer: Completer = self._paths if completes == "path" else DummyCompleter()
        return self._session.prompt(prompt, completer=completer, complete_while_typing=False)


def refuse_without_terminal() -> None:
    """Raises ConfigError where nobody could answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "`sd3tune configure` asks questions, and there is no terminal",
            hint="--yes takes the defaults; --dataset, --model, --from PRESET and --set KEY=VALUE "
            "choose without a question",
        )
