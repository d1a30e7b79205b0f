"""Leak verdicts: what processes use, whether it grows, and which line of which task makes it grow. See
README.md.
"""
