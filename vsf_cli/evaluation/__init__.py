"""The paper's experiment made repeatable: prompt sets, methods, judges, tables, sweeps. Works on files and their metadata.

Modules import in one direction: sweeps, reports -> judging -> runs -> prompt sets.
"""
