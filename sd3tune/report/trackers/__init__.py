"""One file per tracker: how its library takes numbers, pictures and texts. Which events go there,
and how a resumed run continues, is in report/tracker_sink.py."""
