"""A Longline method that trains as sft does, with a penalty on confidence."""
