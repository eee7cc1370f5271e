"""``ternfmt conformance explore``: ask two implementations the same of files that nobody wrote, until they differ.

Whatever is found is saved as a small corpus of its own; the frozen corpus, and what its badge says, stay as they are.
"""
