"""Changing a trained model from outside."""
