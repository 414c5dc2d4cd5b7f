"""CEL as custom resources use it: values, Kubernetes' own functions, bounds, and rules in schemas."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from netplane.controlplane.registry.cel import engine, syntax
from netplane.controlplane.registry.crd import validations

SELF = {
    "n": 2, "s": "abc", "l": ["a", "b"], "m": {"a": 1}, "b": True, "x__dash__y": 1, "__namespace__": "z",
    "nothing": None,
}  # fmt: skip


def value(expression: str, **more: Any) -> Any:
    program = engine.Program(expression, ("self", "oldSelf"))
    return program.evaluate({"self": SELF, **more}, engine.Budget(), engine.size(SELF))


@pytest.mark.parametrize(
    "expression, plain",
    [
        ("a.?b.c.d", 'a.optional__get("b").optional__get("c").optional__get("d")'),
        ("a[?b[0]].c", 'a.optional__get( b [ 0 ] ).optional__get("c")'),
        ("a[?(b)].f(c).d", "a.optional__get( ( b ) ).f ( c ).d"),
        ("[a[?0], b.?c]", '[ a.optional__get( 0 ) , b.optional__get("c") ]'),
        ("sets.contains(a, [b])", "sets_contains ( a , [ b ] )"),
        ("a.`x-y`.?`p/q`", 'a.x__dash__y.optional__get("p__slash__q")'),
    ],
)
def test_optional_access_and_quoted_names_become_words_of_any_cel(expression: str, plain: str) -> None:
    assert syntax.plain(syntax.words(expression)) == plain


@pytest.mark.parametrize(
    "expression",
    [
        "self.n > 1 && self.n > 1.5",
        "self.l.all(x, x.size() == 1) && self.l.exists_one(x, x == 'a')",
        "self.m.all(k, self.m[k] > 0)",
        "has(self.s) && !has(self.missing)",
        "self.?missing.orValue('x') == 'x'",
        "self.?m.a.orValue(5) == 1",
        "self.?m.?z.orValue(5) == 5",
        "self.m[?'a'].orValue(0) == 1 && self.l[?7].orValue('-') == '-'",
        "self.`x-y` == 1 && self.__namespace__ == 'z'",
        "self.l.isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1",
        "self.l.indexOf('b') == 1 && self.s.indexOf('c') == 2",
        "self.s.upperAscii() == 'ABC' && self.s.replace('a', 'x') == 'xbc' && 'a,b'.split(',') == self.l",
        "self.l.join('-') == 'a-b' && ' x '.trim() == 'x' && self.s.substring(1) == 'bc' && self.s.charAt(0) == 'a'",
        "'%s is %d'.format(['it', 3]) == 'it is 3'",
        "self.s.matches('^a.c$') && self.s.find('b.') == 'bc' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "isURL('https://example.com:80/path') && url('https://example.com:80/a?b=c').getHostname() == 'example.com'",
        "url('https://h:80/a').getPort() == '80' && !isURL('no url')",
        "isIP('10.0.0.1') && !isIP('10.0.0.256') && ip('::1').isLoopback() && ip('10.0.0.1').family() == 4",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.0.0.0/8').prefixLength() == 8 && isCIDR('fd00::/8') && ip.isCanonical('127.0.0.1')",
        "quantity('1Gi').isGreaterThan(quantity('1Mi')) && isQuantity('5m') && !isQuantity('five')",
        "quantity('1Gi') == quantity('1024Mi') && quantity('2').add(1).asInteger() == 3",
        "sets.contains([1, 2, 3], [1]) && sets.intersects([1], [1, 2]) && math.greatest(1, 3) == 3",
        "duration('1h') > duration('59m') && timestamp('2020-01-01T00:00:00Z') < timestamp('2021-01-01T00:00:00Z')",
        "self.l.filter(x, x > 'a').map(x, x + 'z') == ['bz']",
        "type(self.n) == int && self.nothing == null",
        "'all' == \"all\" && r'\\d' != 'd' // a comment",
        "cel.bind(x, self.n + 1, cel.bind(y, x * 2, y == (self.n + 1) * 2 && x == self.n + 1))",
        "self.?n.optMap(x, x == self.n).orValue(false) && self.?nosuch.optMap(x, x == 1).orValue(true)",
        "self.?n.optMap(x, self.?n.optMap(y, x + y).orValue(0)).orValue(0) == self.n * 2",
        "!self.?l.optFlatMap(x, x[?9]).hasValue() && self.?l.optFlatMap(x, x[?0]).hasValue()",
    ],
)
def test_an_expression_holds(expression: str) -> None:
    assert value(expression) is True


@pytest.mark.parametrize("expression", ["self.l.all(x, ", "nosuch == 1", "self.nosuch()", "", "1 +", "x" * 20_000])
def test_what_is_no_expression_is_told_at_once(expression: str) -> None:
    with pytest.raises(engine.CompileError):
        engine.Program(expression, ("self",))


@pytest.mark.parametrize("expression", ["self.missing == 1", "self.l[9] == 'a'", "1 / 0 == 1", "int('x') == 1"])
def test_what_has_no_value_is_an_error_of_evaluation(expression: str) -> None:
    with pytest.raises(engine.EvaluationError):
        value(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "self.all(a, self.all(b, self.all(c, a != b + c + 'x')))",
        "self.all(a, self.exists(b, self.exists(c, self.exists(d, a == b && c == d))))",
        " + ".join(["self[0]"] * 400) + " == ''",
        "'" + "a" * 3000 + "'.find('a*a*a*a*b') == ''",
        "'" + "a" * 40 + "'.find('(a|aa)+$') == ''",
    ],
)
def test_a_hostile_rule_ends_soon(expression: str) -> None:
    items = ["x" * 500] * 2000
    program = engine.Program(expression, ("self",))
    started = time.process_time()
    with contextlib.suppress(engine.EvaluationError):
        program.evaluate({"self": items}, engine.Budget(), engine.size(items))
    assert time.process_time() - started < 2


def test_comprehensions_inside_each_other_are_counted() -> None:
    assert syntax.depth(syntax.words("a.all(x, b.exists(y, x == y)) && c.map(z, z).size() > 1")) == 2
    assert syntax.depth(syntax.words("'a.all(b.all(' == x")) == 0


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min must not exceed max"},
                {"rule": "self.max >= oldSelf.max", "messageExpression": "'from ' + string(oldSelf.max)"},
            ],
            "properties": {
                "min": {"type": "integer"},
                "max": {"type": "integer"},
                "share": {
                    "type": "number",
                    "x-kubernetes-validations": [{"rule": "self < 1.0", "reason": "FieldValueForbidden"}],
                },
                "since": {"type": "string", "format": "date-time"},
                "name": {
                    "type": "string",
                    "x-kubernetes-validations": [
                        {
                            "rule": "oldSelf.hasValue() || self != 'late'",
                            "optionalOldSelf": True,
                            "message": "not at first",
                        }
                    ],
                },
                "ports": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "port": {"type": "integer"}},
                        "x-kubernetes-validations": [
                            {"rule": "self.port == oldSelf.port", "message": "port is fixed", "fieldPath": ".port"}
                        ],
                    },
                },
            },
        }
    },
}


def faults(new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    node = validations.compiled(SCHEMA)
    assert node is not None
    return [str(each) for each in validations.judge(node, {"spec": new}, {"spec": old} if old else None)]


def test_a_broken_rule_is_a_fault_at_its_path_in_its_own_words() -> None:
    assert faults({"min": 3, "max": 2}) == ['spec: Invalid value: "object": min must not exceed max']
    assert faults({"min": 1, "max": 2, "share": 2}) == ["spec.share: Forbidden: failed rule: self < 1.0"]


def test_a_rule_about_a_change_is_asked_only_of_changes() -> None:
    assert faults({"min": 1, "max": 2}) == []
    assert faults({"min": 1, "max": 2}, {"min": 1, "max": 5}) == ['spec: Invalid value: "object": from 5']


def test_what_was_bad_before_and_did_not_change_may_stay() -> None:
    bad = {"min": 9, "max": 1}
    assert faults(bad, dict(bad)) == []
    assert faults({**bad, "min": 8}, bad) != []


def test_items_are_compared_with_those_of_the_same_key() -> None:
    old = {"min": 1, "max": 2, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 2}]}
    new = {"min": 1, "max": 2, "ports": [{"name": "b", "port": 2}, {"name": "a", "port": 9}, {"name": "c", "port": 3}]}
    assert faults(new, old) == ['spec.ports[1].port: Invalid value: "object": port is fixed']


def test_an_optional_old_value_is_asked_about_at_creation_too() -> None:
    assert faults({"min": 1, "max": 2, "name": "late"}) == ['spec.name: Invalid value: "string": not at first']
    assert faults({"min": 1, "max": 2, "name": "late"}, {"min": 1, "max": 2, "name": "x"}) == []


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"rule": "self.min <"}, "rule"),
        ({"rule": "self.minimum > 1"}, "rule"),
        ({"rule": "self.min + 'a' == 'b'"}, "rule"),
        ({"rule": "self.min"}, "rule"),
        ({"rule": "  "}, "rule"),
        ({"rule": "true", "messageExpression": "self."}, "messageExpression"),
        ({"rule": "true", "reason": "Whatever"}, "reason"),
        ({"rule": "true", "fieldPath": ".nowhere"}, "fieldPath"),
        ({"rule": "true", "optionalOldSelf": True}, "optionalOldSelf"),
    ],
)
def test_a_definition_with_a_rule_that_cannot_work_is_refused(rule: dict[str, Any], where: str) -> None:
    schema = {"type": "object", "properties": {"min": {"type": "integer"}}, "x-kubernetes-validations": [rule]}
    (found,) = validations.definition_faults(schema, "schema")
    assert found.field == f"schema.x-kubernetes-validations[0].{where}"


def test_a_rule_about_the_old_value_of_an_item_without_key_is_refused() -> None:
    items = {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}
    (found,) = validations.definition_faults({"type": "array", "items": items}, "schema")
    assert "uncorrelatable" in found.message


def test_a_schema_without_rules_has_nothing_to_compile() -> None:
    assert validations.compiled({"type": "object", "properties": {"a": {"type": "string"}}}) is None
