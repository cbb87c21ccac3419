"""Turns a config into objects with plain arguments for the loops. No module below sees a config.

train.py, evaluate.py and predict.py are the three commands; check.py is `vsn-train check=true`. What they have in
common is told apart by what it makes: data.py, network.py, state.py, resume.py, record.py.
"""
