"""The HTTP API: one module per resource, one value per route."""
