"""Who runs when: request states, the plan of a step, fair queues, and the allocation of sequence ids.

Pure: no I/O, clock or thread. The engine tells it what happened and carries out what it plans.
"""
