"""Distillation and flow maps: sampling in one to four evaluations.

Everything is imported on first use, so that reading a recipe needs no torch.
"""
