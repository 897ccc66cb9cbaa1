"""Seeded mutations of good files, read in processes that are watched.

mutations.py  what is done to a file
formats/      the formats: how a good file is made and read; one module for each
worker.py     a process that mutates and reads, and reports what happened
run.py        thousands of mutations, and a record of them

    PYTHONPATH=tests python -m fuzzing.run --mutations 10000 --formats npz --json FILE
    PYTHONPATH=tests python -m fuzzing.run --reproduce npz 1234
"""
