"""The ``telepresence`` command: thin over :mod:`orchestrator.api`, and quick to start."""
