"""What a fused function raises."""


class FuseError(Exception):
    """A function or a call that cannot be fused; the message says what to do instead."""


class FuseTypeError(FuseError, TypeError):
    """A FuseError about the type or the dtype of something."""


class FuseValueError(FuseError, ValueError):
    """A FuseError about a value or a shape."""


class FuseOverflowError(FuseError, OverflowError):
    """A FuseError about a number beyond what a tensor holds."""
