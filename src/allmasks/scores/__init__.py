"""The numerics of dropped-out linear scores, in NumPy: functions of a score problem, which know of no method."""
