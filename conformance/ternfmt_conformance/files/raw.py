from tests.format.raw import *  # noqa
