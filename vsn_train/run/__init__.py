"""Turns a config into objects with plain arguments for the loops. No module below sees a config.

train.py, evaluate.py and predict.py are the three commands; check.py is `vsn-train check=true`. The parts that they
share are data.py, network.py, state.py, resume.py and record.py, each named after what it builds.
"""
