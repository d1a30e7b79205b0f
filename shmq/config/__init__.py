"""What the user's TOML file says: its shape (model), reading it (load, check), its keys in words (describe).

Free of numpy and of anything slow to import: producers and the supervisor read it too.
"""
