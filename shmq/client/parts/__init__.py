"""What a generator yields, read while it runs.

unread.py  the parts of one job that nobody has read yet, out of its ring
reader.py  the iterator that `Job.stream` gives
"""
