"""Who may do what: tokens, their grants, and the sessions of browsers.

Rule: no socket and no task. The time is an argument. Without a tokens file nothing here is asked.
"""
