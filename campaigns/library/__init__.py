"""The shipped campaigns, by the names of their files."""

from functools import cache
from importlib.resources import files

from campaigns.definition import parse

_SUFFIX = ".json"


@cache
def names() -> tuple[str, ...]:
    """All that are shipped, in alphabetical order."""
    found = (file.name for file in files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def shipped(name: str) -> bytes | None:
    """The document of that name as it is shipped, or None."""
    return files(__name__).joinpath(f"{name}{_SUFFIX}").read_bytes() if name in names() else None


def document(name: str) -> object:
    """The same, as a JSON value; KeyError if nothing is shipped under that name."""
    if (text := shipped(name)) is None:
        raise KeyError(name)
    return parse(text)
