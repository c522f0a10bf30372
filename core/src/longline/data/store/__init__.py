"""Samples while they are collected, and prepared data on disk."""
