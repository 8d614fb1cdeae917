"""Reading and writing files in folders that other people can write to.

The functions raise OSError (or ValueError for text that is not JSON) with a reason that a user can
understand; the caller adds the name of the setting.
"""
