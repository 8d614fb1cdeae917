"""Ten rules of training, each broken once: the pictures, or the check that is named, then fail.

One run on the painter learns a new shape under settings in which every rule matters: shift 6, an
alpha of four times the rank, masks that hide a second thing, dropped captions, an average that is
the result, zeroed padding, an interruption. Its pictures are right. Then a copy of the package with
one line changed trains in the same way.
"""

import pytest

pytestmark = pytest.mark.slow
