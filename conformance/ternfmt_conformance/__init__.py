"""The ternfmt conformance suite: drives any implementation of SPEC.md through the protocol of PROTOCOL.md.

``corpus.load_corpus`` and ``runner.run_suite`` are what ``ternfmt conformance run`` calls. Nothing is imported
here, so that Python testees, which import ``ternfmt_conformance.python_adapter``, start fast.
"""
