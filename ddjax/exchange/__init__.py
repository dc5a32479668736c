"""Distilled sets between `ddjax` and everybody else's files: exporters, importers, ``ddjax set``."""
