from tests.format.bad_headers import *  # noqa
