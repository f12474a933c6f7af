"""The machine: tasks, engines, time. It knows nothing of leads."""

__version__ = "0.1.0"
