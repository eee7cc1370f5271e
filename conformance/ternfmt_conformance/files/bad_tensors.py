from tests.format.bad_tensors import *  # noqa
