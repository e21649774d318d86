"""What files hold, as memories: pure readers of JSONL, Markdown, plain text and chats.

Each reader turns lines or bytes into records, one after another, and keeps no more of a file than one record needs.
"""
