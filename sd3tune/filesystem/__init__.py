"""Files that somebody else may have put where sd3tune reads or writes: what is opened, and how.

Everything here raises OSError (or ValueError for what is not JSON) with a reason for people; the
caller names the setting.
"""
