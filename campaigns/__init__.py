"""Runs of many steps."""
