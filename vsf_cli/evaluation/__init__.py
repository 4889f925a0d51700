"""The paper's experiment made repeatable: prompt sets, methods, judges, tables, sweeps. Works on files and their metadata.

Imports run from `command` down: sweeps, tables -> judging -> runs -> prompt sets.
"""
