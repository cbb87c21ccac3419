"""Measuring: networks, steps, reading and tests, beside the reference forms that they are compared with.

No room that a training needs imports it.
"""
