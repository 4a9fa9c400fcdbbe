"""Predict, evaluate and optimize networks."""
