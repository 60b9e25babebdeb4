"""Files, processes, memory, masks, precision and errors: what every other package may use and no library has.

To add a helper: a function in the module of its subject, or a module for a new subject; it imports no other package of
``custom``. A workaround for a bug of a library goes to ``compat``, with a test that fails once it is no longer needed.
"""
