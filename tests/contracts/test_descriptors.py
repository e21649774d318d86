"""What every method and field of the contracts must have, asked of the descriptors one by one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from mnemocore.common.v1 import options_pb2, resources_pb2
from mnemocore.errors import concrete_errors
from mnemocore.policy import SERVICE_FILES, MethodInfo, all_methods
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor

SCOPE = re.compile(r"(memory|events|cognitive):(read|write|admin)|gateway:admin")

WITHOUT_REQUEST_ID = {
    # The answer holds the secret of the key. It is never stored, so a replay could not return the first answer.
    "/mnemocore.gateway.v1.GatewayService/CreateApiKey",
    # Repeated, they find that it is done: SPACE_NOT_FOUND, GRANT_NOT_FOUND or SPACE_ETAG_MISMATCH; a rotation goes on.
    "/mnemocore.memory.v1.SpaceService/UpdateSpace",
    "/mnemocore.memory.v1.SpaceService/DeleteSpace",
    "/mnemocore.memory.v1.SpaceService/EraseSpace",
    "/mnemocore.memory.v1.SpaceService/RotateSpaceKey",
    "/mnemocore.memory.v1.GrantService/DeleteGrant",
}

STORED = {f"mnemocore.memory.v1.{name}" for name in ("Association", "Media", "Memory", "Revision", "Session")}
"""Resources in the records of an import: it checks each with the rules of what a caller may write."""

FOR_SERVICES_TOO = {
    # The relay of memory-core publishes for all tenants, and the index follows the whole log.
    "/mnemocore.events.v1.EventService/PublishEvents",
    "/mnemocore.events.v1.EventService/SubscribeEvents",
}

METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in SERVICE_FILES
    for service in file.services_by_name.values()
    for method in service.methods
}


def reachable(root: Descriptor, seen: set[str]) -> Iterator[Descriptor]:
    """`root` and every message of this project inside it, each once for each `seen`."""
    if root.full_name in seen or not root.full_name.startswith("mnemocore."):
        return
    seen.add(root.full_name)
    yield root
    for field in root.fields:
        if field.message_type is not None:
            yield from reachable(field.message_type, seen)


def request_fields() -> Iterator[FieldDescriptor]:
    """Every field that a client can set, each once."""
    seen: set[str] = set(STORED)
    for method in METHODS.values():
        for message in reachable(method.input_type, seen):
            yield from message.fields


def enums() -> Iterator[EnumDescriptor]:
    """Every enum of the protos."""
    files = {file.name: file for file in SERVICE_FILES}
    pending = list(SERVICE_FILES)
    while pending:
        for dependency in pending.pop().dependencies:
            if dependency.name.startswith("mnemocore/") and dependency.name not in files:
                files[dependency.name] = dependency
                pending.append(dependency)
    for file in files.values():
        yield from file.enum_types_by_name.values()


def rules_of(field: FieldDescriptor) -> options_pb2.FieldRules:
    """The declared rules of a field."""
    rules: options_pb2.FieldRules = field.GetOptions().Extensions[options_pb2.rules]
    return rules


def has_bound(rules: options_pb2.FieldRules) -> bool:
    """Whether `rules` end the length of a text."""
    return bool(rules.max_len or rules.max_bytes or rules.pattern or rules.uuid or rules.item_max_len)


def names(fields: Iterator[FieldDescriptor]) -> list[str]:
    """The full names of `fields`."""
    return [field.full_name for field in fields]


def test_the_policy_table_knows_every_method() -> None:
    assert {info.path for info in all_methods()} == set(METHODS)


@pytest.mark.parametrize("path", sorted(METHODS))
def test_a_method_declares_its_policy(path: str) -> None:
    options = METHODS[path].GetOptions()
    policy = options.Extensions[options_pb2.policy]

    assert policy.visibility != options_pb2.VISIBILITY_UNSPECIFIED
    assert re.fullmatch(r"\d+\.\d+", policy.since)
    assert tuple(map(int, policy.since.split("."))) <= tuple(map(int, __version__.split(".")[:2]))
    if policy.visibility == options_pb2.VISIBILITY_PUBLIC:
        assert SCOPE.fullmatch(policy.scope)
    else:
        assert policy.scope == "", "an internal method is protected by the internal token, not by a scope"
    if options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        assert not policy.destructive, "a method that reads only destroys nothing"
    assert policy.mcp == "" or re.fullmatch(r"[a-z_]+", policy.mcp)


@pytest.mark.parametrize("info", [info for info in all_methods() if info.unary], ids=lambda info: info.path)
def test_a_unary_method_has_deadlines(info: MethodInfo) -> None:
    assert info.default_deadline is not None
    assert info.max_deadline is not None
    assert 0 < info.default_deadline <= info.max_deadline


@pytest.mark.parametrize("path", sorted(METHODS))
def test_a_method_has_messages_of_its_own(path: str) -> None:
    method = METHODS[path]

    assert method.input_type.name == f"{method.name}Request"
    assert method.output_type.name == f"{method.name}Response"


def test_every_write_that_is_not_idempotent_carries_a_request_id() -> None:
    without = {info.path for info in all_methods() if info.unary and not info.idempotent and not info.has_request_id}

    assert without == WITHOUT_REQUEST_ID


def test_every_request_id_is_a_uuid() -> None:
    fields = [field for field in request_fields() if field.name == "request_id"]

    assert fields
    assert [field.full_name for field in fields if not rules_of(field).uuid] == []


def test_every_text_in_a_request_is_bounded() -> None:
    texts = (field for field in request_fields() if field.type == FieldDescriptor.TYPE_STRING)

    assert names(field for field in texts if not has_bound(rules_of(field))) == []


def test_every_list_in_a_request_is_bounded() -> None:
    assert names(field for field in request_fields() if field.is_repeated and not rules_of(field).max_items) == []


def test_every_blob_and_struct_in_a_request_is_bounded() -> None:
    blobs = (field for field in request_fields() if field.type == FieldDescriptor.TYPE_BYTES)
    structs = (
        field
        for field in request_fields()
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Struct"
    )

    assert names(field for field in blobs if not rules_of(field).max_bytes) == []
    assert names(field for field in structs if not (rules_of(field).max_depth and rules_of(field).max_keys)) == []


def test_every_pattern_compiles_and_what_it_matches_has_an_end() -> None:
    for field in request_fields():
        if pattern := rules_of(field).pattern:
            assert re.compile(pattern)
            assert rules_of(field).max_len or not re.search(r"[*+]|,\}", pattern), f"{field.full_name} has no end"


def test_pages_are_asked_for_in_one_way() -> None:
    for field in request_fields():
        if field.name == "page_size":
            assert field.type == FieldDescriptor.TYPE_INT32
            assert rules_of(field).HasField("gte"), field.full_name
            assert rules_of(field).gte == 0, field.full_name
        if field.name == "page_token":
            assert rules_of(field).max_len == 1024, field.full_name
            assert "next_page_token" in METHODS[path_of(field)].output_type.fields_by_name


def path_of(field: FieldDescriptor) -> str:
    """The method whose request holds `field`."""
    return next(path for path, method in METHODS.items() if method.input_type is field.containing_type)


@pytest.mark.parametrize("enum", list(enums()), ids=lambda enum: enum.full_name)
def test_the_zero_of_an_enum_means_nothing(enum: EnumDescriptor) -> None:
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()

    assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
    assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


def test_every_reason_has_one_error_class_and_every_class_a_reason() -> None:
    reasons = [name.removeprefix("ERROR_REASON_") for name in resources_pb2.ErrorReason.DESCRIPTOR.values_by_name]
    classes = [cls.reason for cls in concrete_errors()]

    assert sorted(classes) == sorted(reason for reason in reasons if reason != "UNSPECIFIED")


def test_mcp_tools_have_names_of_their_own() -> None:
    tools = [method.GetOptions().Extensions[options_pb2.policy].mcp for method in METHODS.values()]
    named = [tool for tool in tools if tool]

    assert len(named) == len(set(named))


def test_public_methods_need_a_tenant_but_for_those_that_services_call_too() -> None:
    assert {info.path for info in all_methods() if info.public and info.without_tenant} == FOR_SERVICES_TOO
    assert all(info.without_tenant for info in all_methods() if not info.public)
