"""Why a file is set aside."""


class Unusable(Exception):
    """Why a file cannot be trained on."""


class NoMemory(Unusable):
    """Not today: that memory ran out is the machine's fault, so nobody may remember it under the
    file's content."""
