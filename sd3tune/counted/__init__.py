"""Peak memory of the stages of a run, counted under fake tensors: shapes without contents.

The full-size model is built without weights, one training step of it runs, and a dispatch mode adds
up the storages that are alive. Nothing is loaded, no device is needed, and it takes seconds.
"""
