"""Sends the events of a run to the user's receivers, from threads of their own.

The thread that trains puts an event into a bounded queue and goes on: no receiver, however dead or
slow, costs it time. What cannot be delivered is dropped, and the user hears of it once.
"""
