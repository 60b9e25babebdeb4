"""Preparing data sets once, and a report."""
