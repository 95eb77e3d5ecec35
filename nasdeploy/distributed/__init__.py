"""Scoring by several processes: each pulls one job at a time from the first one's queue.

Nothing is divided beforehand, so a slow process holds the rest up for one job at most, and one that dies costs the job
that it was at: whoever is left gets it. They meet in a store of `torch.distributed` and need no collective operation,
which would wait for the dead. The first process alone decides what is scored, and writes.
"""
