"""What every attempt of a daemon shares."""

from dataclasses import dataclass

from daemon.engines import Engines
from daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The engines, and the settings that rules depend on."""

    engines: Engines
    settings: Settings
