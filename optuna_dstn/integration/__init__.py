"""Δ-STN in frameworks and in several processes, a module for each.

In: the trial of an objective. Out: what the framework takes.

Imports go down: every other folder is below, and nothing in the package imports this one.
"""
