"""A Longline format: conversations that are one text with `User:` and `Bot:` lines."""
