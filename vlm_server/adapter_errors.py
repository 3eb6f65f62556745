"""What can be wrong with an adapter version; the texts are for callers and hold no path."""


class AdapterNotFound(Exception):
    """No such run or version."""


class AdapterInUse(Exception):
    """The version is active or held, and cannot be deleted."""


class AdapterInvalid(ValueError):
    """An adapter's files do not fit the model, or hold values that are not finite."""


class AdapterCorrupt(AdapterInvalid):
    """Files are not what was written, or hold values that are not finite."""


class AdapterMismatch(AdapterInvalid):
    """The version was tuned on another base model."""


class NoRoom(Exception):
    """Adapter versions fill the disk, or the share of it that they may have."""
