"""Probes: what features of pictures tell of their classes."""
