"""Every sort of leak, planted in a task of its own and looked for through a real supervisor.

tasks.py   the plants; the line that leaks is marked `# LEAK: <task>`
run.py     one group with one worker for each, `shmq soak` over all of them, the table of what was found
"""
