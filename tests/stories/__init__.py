"""Stories: transcripts of a few replicas, driven step by step, that anyone can read and re-record.

Above `----` is what is done, below it what came out. `python -m tests.stories --record` writes what comes out
now; read the difference before you keep it. The commands are in `theatre`.
"""
