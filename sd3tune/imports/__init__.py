"""Configurations of other trainers, translated: one file per trainer.

A trainer's file knows the names, defaults and rules of that trainer, from its documentation. Names
that mean the same everywhere are in config/other_trainers.py, and are not repeated here.
"""
