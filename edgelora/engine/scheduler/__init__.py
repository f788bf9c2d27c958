"""The scheduler: request states, the plan of a step, fair queues, and the allocation of sequence ids.

Pure: no I/O, clock or thread. The engine reports events to it and carries out its plans.
"""
