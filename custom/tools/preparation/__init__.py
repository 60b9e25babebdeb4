"""Preparing all cases of a data set before a training, and a report of what they contain.

``prepare`` fills the cache of prepared cases, ``quality`` checks each case, ``report`` summarises them. To add a reason
why a case is suspicious: ``quality._reasons`` if the case alone shows it, else ``report.summarise``; and its line in
docs/preparation.md.
"""
