"""What the kernels cost: measured on a GPU, read from compiled code, and reckoned on paper."""
