"""What two parts of Telepresence must agree on; every other package may import this one and none else of ours."""

__version__ = "0.1.0"
