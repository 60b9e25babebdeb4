"""The error of a chain that a user is shown."""

from custom.utils.errors import chain, root_cause


def test_a_chain_that_comes_back_to_itself_ends() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__context__, other.__context__ = other, one
    assert list(chain(one)) == [one, other]
    assert root_cause(one, packages=("nowhere",)) is other
