"""The exceptions for files that are set aside."""


class Unusable(Exception):
    """A file cannot be trained on; the message states the reason."""


class NoMemory(Unusable):
    """Memory ran out. The machine caused this, so it must not be recorded under the file's
    content."""
