"""`sd3tune configure`: questions about a run, each with what it costs on this machine, and the
files that follow from the answers.

The answers are a pure matter: `questions.py` knows what may be answered, `documents.py` what is
written for it, `draft.py` has the planner judge it. Nothing is estimated here.
"""
