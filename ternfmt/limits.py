"""The limits of SPEC section 9, each with its reason."""

HEADER_MAX = 1 << 25
"""Header bytes. 32 MiB is 150 times FLUX.1-dev's header and bounds what a hostile length can cost."""

DEPTH_MAX = 32
"""Nested JSON containers. The format needs four; parsers recurse."""

NUMBER_CHARS_MAX = 32
"""Characters in one JSON number. 2^64 has 20 digits; longer literals cost quadratic time."""

INTEGER_MAX = (1 << 53) - 1
"""Any integer, and any tensor's size in bytes. The largest that every JSON parser keeps exact."""

RANK_MAX = 32
"""Dimensions of a tensor. The smallest limit among the array libraries readers are built on."""

NAME_MAX = 255
"""Bytes in a tensor name. Fits one length byte and every file system's name limit."""

K_MAX = (1 << 24) - 1
"""Columns of a ternary tensor. Keeps int32 sums of int8 activations exact: 2^24 * 127 < 2^31."""

PLANES_MAX = 4
"""Planes that add up. Four planes take 8 bits a weight; past that int8 is the better format."""

GROUP_MULTIPLE = 16
"""Group sizes are multiples of this: a group then starts on a 32-bit boundary of the packed row."""

ALIGNMENT = 64
"""Canonical files start their data here: one cache line, and a multiple of every dtype's size."""
