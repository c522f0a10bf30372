"""Distillation for Longline: a student learns from a teacher's distribution over the next token."""
