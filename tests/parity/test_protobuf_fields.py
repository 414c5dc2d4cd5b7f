"""The table of protobuf fields says what kubectl's own descriptors say."""

from __future__ import annotations

from pathlib import Path

from netplane.kube import protobuf
from tests.support import kubectl_descriptors, kubectls

_KINDS = {"string": {9}, "bool": {8}, "int": {3, 4, 5, 13}, "bytes": {12}, "double": {1}}
_SPELLED = {"uID": "uid", "aPIGroup": "apiGroup"}


def test_every_known_message_has_the_fields_of_kubernetes() -> None:
    described = kubectl_descriptors.fields(Path(kubectls.newest()))
    for name in protobuf._messages():
        table, truth = protobuf._table(name), described[name]
        assert table.keys() == truth.keys(), name
        for number, field in table.items():
            spelled, kind = truth[number]
            assert field.name.lower() == _SPELLED.get(spelled, spelled).lower(), (name, number)
            if field.form != "%":
                assert kind in _KINDS.get(field.kind, {11}), (name, number)
