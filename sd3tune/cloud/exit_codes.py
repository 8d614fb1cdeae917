"""What the exit code of `sd3tune train` tells a program that may start it again
(docs/guides/devices.md lists all codes)."""

# The same command continues: another process of the run was lost (75), this one was killed (137),
# or it was stopped from outside after saving (SIGHUP 129, SIGTERM 143).
AGAIN = (75, 129, 137, 143)
# The same command would fail again: the user has to change something, or there is a bug.
NEVER = (1, 2)
