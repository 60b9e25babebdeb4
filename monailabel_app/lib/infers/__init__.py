"""Inference tasks: a bundle answers a prompt; batches; the cache of volumes."""
