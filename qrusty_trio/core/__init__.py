"""The state machine: queues, locks, order, counters. Pure and synchronous; the time is an argument.

Requirements: SYS-0021
"""
