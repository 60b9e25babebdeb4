"""Synthetic abdominal CT with labels, for demonstrations and tests; they show no patient.

``scene`` renders the anatomy of ``scene.json`` from the solids of ``shapes``; ``dataset`` writes a data set folder. To
add an organ or a lesion: an entry of ``parts`` and its ``labels`` in ``scene.json``. To add a kind of solid: a function
in ``shapes`` and its name in ``shapes.solid``.
"""
