"""Helpers for the whole package: errors, files, requests to the Hub, distributed processes, plots."""
