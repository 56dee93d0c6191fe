"""Why a model was not compiled."""


class CannotCompile(Exception):
    """The model runs as it is instead; the text completes "not compiled: ..."."""
