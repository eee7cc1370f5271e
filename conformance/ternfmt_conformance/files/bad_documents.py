from tests.format.bad_documents import *  # noqa
