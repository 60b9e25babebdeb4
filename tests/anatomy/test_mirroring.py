"""Every class and its twin on the other side."""

from custom.anatomy.class_set import ClassSet
from custom.anatomy.mirroring import twin


def test_sides_change_places_and_nothing_else_does(class_set: ClassSet) -> None:
    pairs = {item.name: class_set[twin(class_set, item.index)].name for item in class_set}
    assert pairs["left kidney"] == "right kidney" and pairs["right head of femur"] == "left head of femur"
    assert pairs["liver"] == "liver" and pairs["kidney tumor"] == "kidney tumor"
    assert all(twin(class_set, twin(class_set, item.index)) == item.index for item in class_set)
    assert {name for name, other in pairs.items() if name != other} == {i.name for i in class_set if i.side}
