"""The one exception tree."""


class OrchestratorError(Exception):
    """Something a person can act on; the text says what to do."""


class SettingsError(OrchestratorError):
    """Bad usage or bad settings (exit 2)."""


class DatabaseUnavailable(OrchestratorError):
    """No writable Postgres answered in time (exit 1)."""


class SchemaMismatch(OrchestratorError):
    """The database's schema is not the one this version needs (exit 1)."""


class DeclarationError(OrchestratorError):
    """A pipeline's declaration contradicts itself or the live data."""


class LeaseLost(OrchestratorError):
    """This daemon may no longer speak for the task."""
