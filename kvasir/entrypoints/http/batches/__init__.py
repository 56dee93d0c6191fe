"""OpenAI's Files and Batches over a folder: what is accepted outlives the server, and every line is answered once.

Files and batches are rows of a SQLite database; answers are appended to the batch's output and error files, which
are their own journal: after a crash they say which lines are done.
"""
