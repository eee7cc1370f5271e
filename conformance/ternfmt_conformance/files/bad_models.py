from tests.format.bad_models import *  # noqa
