"""The sections of a report, one module for each kind: functions from a `Study` to a `Part`."""
