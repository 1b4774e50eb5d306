"""The ``telepresence`` command and the Python API behind it.

The API is :mod:`orchestrator.api`; it is not imported here, so that ``telepresence --help`` stays quick.
"""
