"""Labelled images and their augmentation."""
