"""Errors in the user's input; every other exception is a bug and keeps its traceback.

InstructError
├── ParamsError      params.yaml or a command-line value
├── DataError        a data file or a record in it
├── BackboneError    the table of backbones, a download, a weight file
├── CheckpointError  a checkpoint that cannot be read or written
├── ServerError      a server of a language model that cannot be reached or used, or a cache of its replies
└── JudgeError       a judge that cannot be reached or used
"""


class InstructError(Exception):
    """A mistake that the user can fix; its text says where, what, and what to do."""


class ParamsError(InstructError):
    """A parameter is missing, unknown, of the wrong type or out of range."""


class DataError(InstructError):
    """A data file cannot be read or contains invalid records."""


class BackboneError(InstructError):
    """A backbone is unknown, cannot be fetched, or its files differ from the table."""


class CheckpointError(InstructError):
    """A checkpoint cannot be written or read, or does not fit its model."""


class ServerError(InstructError):
    """A server of a language model cannot be reached, lacks its model, or breaks its contract."""


class JudgeError(InstructError):
    """A judge cannot be reached, lacks its model, or breaks its contract."""
