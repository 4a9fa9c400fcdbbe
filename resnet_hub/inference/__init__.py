"""Predict, evaluate, optimize."""
