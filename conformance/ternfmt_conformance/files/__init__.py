"""Files made from pieces without ternfmt's writer: valid ones, and ones with a single fault."""
