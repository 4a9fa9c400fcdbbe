"""The version of this package. Nothing else states it."""

__version__ = '0.1.0'
