"""What a document is checked against: the engines that there are, their operations, and the pipelines."""

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.settings import EngineSettings

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "prospecting": ("/api/prospect",),
    "analysis": ("/api/analyze",),
    "outreach": ("/api/compose-batch", "/api/send-batch"),
    "sender": ("/api/send-batch",),
    "sms": ("/api/send",),
    "validator": ("/api/validate",),
    "offers": ("/api/offers", "/api/deals"),
    "scout": ("/api/scout",),
    "analyst": ("/api/score",),
    "writer": ("/api/write",),
    "tracker": ("/api/track",),
    "sourcing": ("/api/source",),
    "classifier": ("/api/classify",),
    "extraction": ("/api/extract",),
    "places": ("/api/search", "/api/details"),
    "intelligence": ("/api/analyze", "/api/extract"),
    "facebook": ("/api/lead",),
    "phone_places": ("/api/lookup",),
    "phone_directory": ("/api/lookup",),
    "phone_website": ("/api/lookup",),
    "contacts": ("/api/contacts",),
}
"""What each engine can be asked; the first is asked where a step names none."""

MEANT = {"sender": "outreach"}
"""Names that mean another engine, unless one of that very name is configured."""


@dataclass(frozen=True, slots=True)
class World:
    """The configured engines and the declared pipelines."""

    engines: Mapping[str, EngineSettings]
    pipelines: frozenset[str]

    def meant(self, engine: str) -> str:
        """The engine that a name stands for."""
        return engine if engine in self.engines else MEANT.get(engine, engine)
