"""`sd3tune watch`: a page that shows runs while they train and afterwards.

A run's folder is read, never written, and treated as a stranger's: links are not followed, sizes
are bounded, lines that are not JSON are skipped. The server makes no connection of its own.
"""
