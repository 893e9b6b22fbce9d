"""Answers that are held to JSON: whatever a model would rather say, what comes out is valid."""

from __future__ import annotations

import json
import random

import jsonschema
import pytest
import torch

from burnish.serve.errors import ApiError
from burnish.serve.grammar import DEAD, Guide, Machine, Vocabulary
from burnish.serve.schema import any_object, of_schema
from burnish.serve.spelling import Spelling
from tests.conftest import build_tokenizer, family_tokenizer
from tests.serving import sampled

TREE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "below": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
    "required": ["value"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "d"},
        "nick": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "age": {"type": ["integer", "null"]},
        "kind": {"enum": ["a", "ü", 3, None]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2, "maxItems": 3},
        "more": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "required": ["name", "age", "tags"],
    "$defs": {"tag": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok", "x"]}},
}
SCHEMAS = [TREE, PERSON, {"const": {"a": [1, "é"]}}, {"type": "array", "maxItems": 0}, {"type": "number"}, True, {}]


def accepts(root, text):
    machine = Machine(root)
    state = machine.walk(machine.start, text.encode())
    return state != DEAD and machine.ends(state)


@pytest.mark.parametrize(
    "text",
    ['{}', '{"a": [1, -2.5e+3, true, false, null, {"b": "c"}]}', '{"é\\n\\u00e9": "世🎉 \\"q\\""}', '{"a":{},"b":[]}',
     '{\n  "a": 1,\n  "b": [\n    2\n  ]\n}', '{"a": 0.5, "b": -0}'],
)  # fmt: skip
def test_json_is_let_through(text):
    json.loads(text)
    assert accepts(any_object(), text)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "1", '{"a"}', '{"a":}', "{'a': 1}", '{"a": 01}', '{"a": 1,}', '{"a": .5}', '{"a": +1}',
     '{"a": tru}', '{"a": "\n"}', '{"a": "\\x"}', '{"a": "\\ud800"}', '{} {}', '{"a": NaN}', '{"a": [1 2]}'],
)  # fmt: skip
def test_what_is_no_object_of_json_is_not(text):
    assert not accepts(any_object(), text)


def test_bytes_that_are_no_text_are_not():
    machine = Machine(any_object())
    for wrong in (b"\xff", b"\xc0\x80", b'\xe4\xb8"', b"\xed\xa0\x80", b"\xf5\x80\x80\x80"):
        assert machine.walk(machine.start, b'{"a": "' + wrong) == DEAD


@pytest.mark.parametrize(
    ("schema", "text", "right"),
    [
        (PERSON, '{"name": "x", "age": null, "tags": [{"ok": true, "x": [1]}, {"ok": false, "x": {}}]}', True),
        (PERSON, '{"name": "x", "tags": [{"ok": true, "x": 1}, {"ok": false, "x": 1}]}', False),
        (PERSON, '{"name": 3, "age": 4, "tags": []}', False),
        (PERSON, '{"name": "x", "age": 1, "kind": "b", "tags": []}', False),
        (TREE, '{"value": 1, "below": [{"value": 2}, {"value": 3, "below": []}]}', True),
        (TREE, '{"value": 1, "below": [{"value": 2}, {"value": 3}, {"value": 4}]}', False),
        (TREE, '{"value": 1.5}', False),
        (TREE, '{"value": 1, "other": 2}', False),
    ],
)
def test_schemas(schema, text, right):
    assert accepts(of_schema(schema), text) is right
    if right:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("schema", [None, *SCHEMAS], ids=lambda schema: str(schema)[:20])
def test_a_model_without_sense_writes_valid_json(schema):
    tokenizer = build_tokenizer()
    spelling, rows = Spelling(tokenizer), len(tokenizer) + 5
    vocabulary = Vocabulary(spelling.of_all(each for each in range(rows) if each not in tokenizer.added_tokens_decoder))
    guide = Guide(any_object() if schema is None else of_schema(schema), vocabulary, [2], rows)
    texts = {sampled(guide, spelling, {2}, random.Random(seed), rows) for seed in range(25)} - {None}
    assert texts, "none came to an end"
    for text in texts:
        value = json.loads(text)
        if isinstance(schema, dict):
            jsonschema.validate(value, schema)
    if schema is PERSON:
        assert len(texts) > 5, "hardly any choice is left"


def test_many_byte_tokens_are_walked_as_well():
    """A vocabulary of words: the shortcut for strings gives what walking over all of it gives."""

    words = (
        b'{"',
        b'": "',
        b'"}',
        b'", "',
        b"abc",
        b'x"',
        "é".encode(),
        b"\xc3",
        b"\xa9",
        b"\n",
        b' "',
        b"}",
        b"\\",
        b"n",
    )
    vocabulary = Vocabulary(dict(enumerate(words)))
    guide = Guide(any_object(), vocabulary, [14], 15)
    start = guide.shape([], torch.zeros(15))
    assert torch.isfinite(start).nonzero().flatten().tolist() == [0]
    inside = torch.isfinite(guide.shape([0, 4], torch.zeros(15))).nonzero().flatten().tolist()
    walked = [
        token
        for token in range(14)
        if guide.machine.walk(guide.machine.walk(guide.machine.start, b'{"abc'), words[token]) != DEAD
    ]
    assert inside == walked
    assert 1 in inside
    assert 9 not in inside
    assert torch.isfinite(guide.shape([0, 4, 1, 4, 2], torch.zeros(15))).nonzero().flatten().tolist() == [14]


@pytest.mark.parametrize("name", ["smollm2", "llama2"])
def test_a_vocabulary_is_spelled_at_once_as_one_by_one(name):
    tokenizer = family_tokenizer(name)
    spelling = Spelling(tokenizer)
    plain = [token for token in range(len(tokenizer) + 2) if token not in tokenizer.added_tokens_decoder]
    assert spelling.of_all(plain) == {token: spelling(token) for token in plain}
    assert spelling.of_all(plain)[len(tokenizer)] == b""
    assert {bytes([byte]) for byte in range(256)} <= set(spelling.of_all(plain).values())


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "pattern": "a"}, "'pattern'"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}},
            "properties.a, the keyword 'maxLength'",
        ),
        ({"$ref": "http://example.com"}, "'\\$ref' can only"),
        ({"$ref": "#/nowhere"}, "leads nowhere"),
        ({"$ref": "#"}, "leads to itself"),
        ({"type": "thing"}, "names no type"),
        ({"type": "array", "minItems": 3, "maxItems": 1}, "below minItems"),
        ({"type": "array", "minItems": 10**9}, "can be up to"),
        ({"type": "string", "enum": [1]}, "no value of the type"),
        ({"required": ["a"], "type": "object", "additionalProperties": False}, "may not be there"),
        ({"anyOf": []}, "has to be a list"),
        (False, "cannot be fulfilled"),
        ({"type": "object", "properties": {"a": False}}, "cannot be fulfilled"),
    ],
)
def test_what_a_schema_cannot_ask(schema, words):
    with pytest.raises(ApiError, match=words):
        of_schema(schema)


def test_requests_get_the_guide(client, engine, template):
    import openai

    asked = {"model": "tiny", "messages": [{"role": "user", "content": "say:x"}]}
    client.chat.completions.create(response_format={"type": "json_object"}, **asked)
    logits = engine.requests[-1].shape_logits([], torch.zeros(len(template.tokenizer)))
    allowed = torch.isfinite(logits).nonzero().flatten().tolist()
    assert [template.tokenizer.decode([token]) for token in allowed] == ["{"]
    schema = {"name": "n", "schema": {"type": "boolean"}, "strict": True}
    client.chat.completions.create(response_format={"type": "json_schema", "json_schema": schema}, **asked)
    logits = engine.requests[-1].shape_logits([], torch.zeros(len(template.tokenizer)))
    assert sorted(template.tokenizer.decode(torch.isfinite(logits).nonzero().flatten())) == ["f", "t"]
    odd = {"name": "n", "schema": {"type": "string", "pattern": "x"}}
    with pytest.raises(openai.BadRequestError, match="'pattern' is not supported"):
        client.chat.completions.create(response_format={"type": "json_schema", "json_schema": odd}, **asked)
