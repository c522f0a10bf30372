"""A Longline plugin that sends messages about a run to a Lark or Feishu group, through the webhook of a custom bot."""
