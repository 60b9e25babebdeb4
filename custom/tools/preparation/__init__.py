"""Preparing all cases of a data set before a training, and a report of what they contain.

``prepare`` fills the cache of prepared cases, ``report`` checks and summarises them. To add a reason why a case is
suspicious: ``report._reasons`` if the case alone shows it, else ``report.summarise``; and its line in
docs/preparation.md.
"""
