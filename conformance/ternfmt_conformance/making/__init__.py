"""Makes the frozen corpus, from the raw builders of `ternfmt_conformance.files` and without ternfmt's writer."""
