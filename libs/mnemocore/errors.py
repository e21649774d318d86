"""The errors of MnemoCore.

    MnemoError
    ├── InvalidArgumentError
    │   ├── InvalidFieldError          one or more fields break their rules
    │   ├── DeadlineRequiredError      the call has no deadline
    │   ├── ForeignTokenError          a consistency token of another store or space
    │   ├── PageTokenMismatchError     a page token of another query
    │   ├── RequestIdReusedError       a request id used with another request
    │   └── UnsupportedMediaError      bytes of a kind that is not taken, or of another kind than declared
    ├── NotFoundError
    │   ├── SpaceNotFoundError
    │   ├── MemoryNotFoundError
    │   ├── MediaNotFoundError
    │   ├── GrantNotFoundError
    │   ├── SessionNotFoundError
    │   ├── GroupNotFoundError
    │   ├── DeadLetterNotFoundError
    │   ├── SchemaNotFoundError
    │   ├── WebhookNotFoundError
    │   ├── AgentNotFoundError
    │   ├── TaskNotFoundError
    │   ├── CheckpointNotFoundError
    │   ├── WorkingItemNotFoundError
    │   ├── JobNotFoundError
    │   ├── ApiKeyNotFoundError
    │   └── MethodNotFoundError
    ├── AlreadyExistsError
    │   ├── SpaceExistsError
    │   ├── MemoryExistsError
    │   ├── DuplicateMemoryError       an equal memory is there
    │   ├── SessionExistsError
    │   ├── GroupExistsError           another consumer group of that name
    │   ├── PolicyExistsError
    │   ├── WebhookExistsError
    │   └── TaskExistsError
    ├── ConflictError
    │   ├── EtagMismatchError
    │   ├── SpaceEtagMismatchError
    │   ├── WebhookEtagMismatchError
    │   ├── LeaseLostError             what was leased is another's now
    │   └── AlreadySupersededError     another memory has taken the place of this one
    ├── PreconditionError
    │   ├── JobStateError
    │   ├── TaskStateError
    │   ├── EventsTrimmedError         the log does not go back so far
    │   ├── SchemaIncompatibleError
    │   ├── MemoryProtectedError
    │   ├── SessionEndedError
    │   ├── WorkingMemoryFullError
    │   ├── SpaceNotEmptyError
    │   ├── SpaceNotEncryptedError
    │   ├── KeyUnavailableError        a key that is needed is not configured
    │   ├── BackupDamagedError         a backup that is not whole
    │   ├── DataDirectoryError         a data directory that cannot be used
    │   └── InvalidSettingError        a setting with a value that is not allowed
    ├── UnauthenticatedError
    ├── PermissionDeniedError
    │   ├── AccessDeniedError          no policy for these events
    │   └── RoleRequiredError          a shared space, in a role that does not allow the call
    ├── ExhaustedError
    │   ├── OverloadedError
    │   ├── QuotaExceededError         the space may not hold more
    │   └── StoreFullError
    ├── UnavailableError
    │   ├── IndexLaggingError
    │   ├── IndexRebuildingError
    │   ├── WrongReplicaError
    │   ├── CircuitOpenError
    │   ├── ShuttingDownError
    │   ├── StoreUnavailableError
    │   └── PeerUnavailableError
    ├── DeadlineExceededError
    ├── CancelledError
    └── InternalError

Each concrete class fixes its gRPC status, its reason (a value of `mnemocore.common.v1.ErrorReason`) and the keys of its
metadata. Servers turn an error into a rich status, the client library turns the status back into the same class.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOMAIN = "mnemocore.dev"
"""The domain of every `google.rpc.ErrorInfo` this project sends."""


class Status(Enum):
    """The gRPC status codes in use, by their numbers on the wire."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: `field` is the path from the request, `description` names the value and what is allowed."""

    field: str
    description: str


class MnemoError(Exception):
    """The root of all errors. `str(error)` is one clear line.

    `metadata` holds the values that programs need; its keys are fixed by the class. `violations` lists broken field
    rules. `retry_after` is the number of seconds after which a retry may help, None if it is not known to.
    """

    status: ClassVar[Status]
    reason: ClassVar[str]
    metadata_keys: ClassVar[tuple[str, ...]] = ()
    template: ClassVar[str]

    def __init__(
        self,
        message: str | None = None,
        *,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        **metadata: str,
    ) -> None:
        unknown = set(metadata) - set(self.metadata_keys)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no metadata {sorted(unknown)}; it has {self.metadata_keys}")
        self.message = self.template.format(**metadata) if message is None else message
        self.metadata = metadata
        self.violations = tuple(violations)
        self.retry_after = retry_after
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class InvalidArgumentError(MnemoError):
    """The request is wrong; sending it again will not help."""

    status = Status.INVALID_ARGUMENT


class InvalidFieldError(InvalidArgumentError):
    """One or more fields break their rules."""

    reason = "INVALID_FIELD"
    metadata_keys = ("field",)
    template = "{field} is not valid"

    @classmethod
    def of(cls, violations: Sequence[Violation]) -> InvalidFieldError:
        """An error that names all `violations` (at least one) in one line."""
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        return cls(text, violations=violations, field=violations[0].field)


class DeadlineRequiredError(InvalidArgumentError):
    """The call has no deadline."""

    reason = "DEADLINE_REQUIRED"
    template = "the call has no deadline; set one (gRPC header grpc-timeout, for example 5S)"


class ForeignTokenError(InvalidArgumentError):
    """The consistency token belongs to another store or space, or is damaged."""

    reason = "FOREIGN_TOKEN"
    template = "the consistency token was not issued by this store for this space"


class PageTokenMismatchError(InvalidArgumentError):
    """The page token belongs to another query, or is damaged."""

    reason = "PAGE_TOKEN_MISMATCH"
    template = "page_token does not belong to this query; start again without it"


class RequestIdReusedError(InvalidArgumentError):
    """The request id was used with another request."""

    reason = "REQUEST_ID_REUSED"
    template = "request_id was used before with another request; a new request needs a new id"


class UnsupportedMediaError(InvalidArgumentError):
    """The bytes are of no kind that is taken, or not of the kind they are said to be."""

    reason = "UNSUPPORTED_MEDIA"
    metadata_keys = ("declared", "detected")
    template = "the bytes are {detected}, not {declared}"


class NotFoundError(MnemoError):
    """What was asked for does not exist for this tenant."""

    status = Status.NOT_FOUND


class SpaceNotFoundError(NotFoundError):
    """The space does not exist."""

    reason = "SPACE_NOT_FOUND"
    metadata_keys = ("space",)
    template = "space {space!r} does not exist"


class MemoryNotFoundError(NotFoundError):
    """The memory does not exist in the space."""

    reason = "MEMORY_NOT_FOUND"
    metadata_keys = ("memory",)
    template = "memory {memory!r} does not exist"


class MediaNotFoundError(NotFoundError):
    """The medium does not exist in the space."""

    reason = "MEDIA_NOT_FOUND"
    metadata_keys = ("media",)
    template = "media {media!r} does not exist"


class GrantNotFoundError(NotFoundError):
    """The grant does not exist for the caller."""

    reason = "GRANT_NOT_FOUND"
    metadata_keys = ("grant",)
    template = "grant {grant!r} does not exist"


class GroupNotFoundError(NotFoundError):
    """The consumer group does not exist for the caller."""

    reason = "GROUP_NOT_FOUND"
    metadata_keys = ("group",)
    template = "group {group!r} does not exist"


class DeadLetterNotFoundError(NotFoundError):
    """The dead letter does not exist in the group."""

    reason = "DEAD_LETTER_NOT_FOUND"
    metadata_keys = ("dead_letter",)
    template = "dead letter {dead_letter!r} does not exist"


class SchemaNotFoundError(NotFoundError):
    """The schema does not exist for the caller."""

    reason = "SCHEMA_NOT_FOUND"
    metadata_keys = ("schema",)
    template = "schema {schema!r} does not exist"


class WebhookNotFoundError(NotFoundError):
    """The webhook does not exist for the caller."""

    reason = "WEBHOOK_NOT_FOUND"
    metadata_keys = ("webhook",)
    template = "webhook {webhook!r} does not exist"


class AgentNotFoundError(NotFoundError):
    """The agent does not exist for the caller."""

    reason = "AGENT_NOT_FOUND"
    metadata_keys = ("agent",)
    template = "agent {agent!r} is not registered"


class TaskNotFoundError(NotFoundError):
    """The task does not exist for the caller."""

    reason = "TASK_NOT_FOUND"
    metadata_keys = ("task",)
    template = "task {task!r} does not exist"


class SessionNotFoundError(NotFoundError):
    """The session was not started in the space."""

    reason = "SESSION_NOT_FOUND"
    metadata_keys = ("session",)
    template = "session {session!r} was not started"


class CheckpointNotFoundError(NotFoundError):
    """The checkpoint does not exist in the session."""

    reason = "CHECKPOINT_NOT_FOUND"
    metadata_keys = ("checkpoint",)
    template = "checkpoint {checkpoint!r} does not exist"


class WorkingItemNotFoundError(NotFoundError):
    """The item is not in working memory."""

    reason = "WORKING_ITEM_NOT_FOUND"
    metadata_keys = ("item",)
    template = "item {item!r} is not in working memory"


class JobNotFoundError(NotFoundError):
    """The job does not exist."""

    reason = "JOB_NOT_FOUND"
    metadata_keys = ("job",)
    template = "job {job!r} does not exist"


class ApiKeyNotFoundError(NotFoundError):
    """The API key does not exist."""

    reason = "API_KEY_NOT_FOUND"
    metadata_keys = ("api_key",)
    template = "API key {api_key!r} does not exist"


class MethodNotFoundError(NotFoundError):
    """The method does not exist or is not public."""

    reason = "METHOD_NOT_FOUND"
    metadata_keys = ("method",)
    template = "method {method!r} does not exist here"


class AlreadyExistsError(MnemoError):
    """The name is taken."""

    status = Status.ALREADY_EXISTS


class SpaceExistsError(AlreadyExistsError):
    """A space of this name exists."""

    reason = "SPACE_EXISTS"
    metadata_keys = ("space",)
    template = "space {space!r} exists already"


class GroupExistsError(AlreadyExistsError):
    """A consumer group of this name is there, and is another."""

    reason = "GROUP_EXISTS"
    metadata_keys = ("group",)
    template = "group {group!r} exists already and is another"


class PolicyExistsError(AlreadyExistsError):
    """An access policy of this name is there, and is another."""

    reason = "POLICY_EXISTS"
    metadata_keys = ("policy",)
    template = "policy {policy!r} exists already and is another"


class WebhookExistsError(AlreadyExistsError):
    """A webhook of this name is there, and is another."""

    reason = "WEBHOOK_EXISTS"
    metadata_keys = ("webhook",)
    template = "webhook {webhook!r} exists already and is another"


class TaskExistsError(AlreadyExistsError):
    """A task of this name is there, and is another."""

    reason = "TASK_EXISTS"
    metadata_keys = ("task",)
    template = "task {task!r} exists already and is another"


class MemoryExistsError(AlreadyExistsError):
    """A memory with this id exists."""

    reason = "MEMORY_EXISTS"
    metadata_keys = ("memory",)
    template = "memory {memory!r} exists already"


class DuplicateMemoryError(AlreadyExistsError):
    """An equal memory is there, and the caller asked not to write another."""

    reason = "DUPLICATE_MEMORY"
    metadata_keys = ("memory",)
    template = "memory {memory!r} says the same"


class SessionExistsError(AlreadyExistsError):
    """The session was started before."""

    reason = "SESSION_EXISTS"
    metadata_keys = ("session",)
    template = "session {session!r} was started before"


class ConflictError(MnemoError):
    """Somebody else changed the resource first; read it again and decide."""

    status = Status.ABORTED


class EtagMismatchError(ConflictError):
    """The etag is not the stored one."""

    reason = "ETAG_MISMATCH"
    metadata_keys = ("memory",)
    template = "memory {memory!r} has changed since its etag was read"


class SpaceEtagMismatchError(ConflictError):
    """The etag of the space is not the stored one."""

    reason = "SPACE_ETAG_MISMATCH"
    metadata_keys = ("space",)
    template = "space {space!r} has changed since its etag was read"


class WebhookEtagMismatchError(ConflictError):
    """The etag of the webhook is not the stored one."""

    reason = "WEBHOOK_ETAG_MISMATCH"
    metadata_keys = ("webhook",)
    template = "webhook {webhook!r} has changed since its etag was read"


class LeaseLostError(ConflictError):
    """What the caller had was given to another, or was taken back."""

    reason = "LEASE_LOST"
    metadata_keys = ("name",)
    template = "{name!r} is not yours any more"


class AlreadySupersededError(ConflictError):
    """Another memory has taken the place of this one."""

    reason = "ALREADY_SUPERSEDED"
    metadata_keys = ("memory", "superseded_by")
    template = "memory {memory!r} was superseded by {superseded_by!r}"


class PreconditionError(MnemoError):
    """The system is not in a state that allows this."""

    status = Status.FAILED_PRECONDITION


class EventsTrimmedError(PreconditionError):
    """The event log does not go back so far any more."""

    reason = "EVENTS_TRIMMED"
    metadata_keys = ("position", "earliest")
    template = "the event log begins after position {earliest}; {position} is gone"


class SchemaIncompatibleError(PreconditionError):
    """The schema changes what its compatibility does not allow."""

    reason = "SCHEMA_INCOMPATIBLE"
    metadata_keys = ("schema", "problem")
    template = "schema {schema!r}: {problem}"


class TaskStateError(PreconditionError):
    """The task is in a state that does not allow this."""

    reason = "TASK_STATE"
    metadata_keys = ("task", "state")
    template = "task {task!r} is {state}"


class JobStateError(PreconditionError):
    """The job has ended."""

    reason = "JOB_STATE"
    metadata_keys = ("job", "state")
    template = "job {job!r} is {state}"


class MemoryProtectedError(PreconditionError):
    """The memory is protected."""

    reason = "MEMORY_PROTECTED"
    metadata_keys = ("memory",)
    template = "memory {memory!r} is protected; take the protection away first"


class SessionEndedError(PreconditionError):
    """The session has ended."""

    reason = "SESSION_ENDED"
    metadata_keys = ("session",)
    template = "session {session!r} has ended"


class WorkingMemoryFullError(PreconditionError):
    """Every item of the working memory is protected."""

    reason = "WORKING_MEMORY_FULL"
    metadata_keys = ("agent", "session")
    template = "the working memory of agent {agent!r} in session {session!r} is full of protected items"


class SpaceNotEmptyError(PreconditionError):
    """The space holds memories."""

    reason = "SPACE_NOT_EMPTY"
    metadata_keys = ("space",)
    template = "space {space!r} is not empty; erase it to remove everything in it"


class SpaceNotEncryptedError(PreconditionError):
    """The space is not encrypted."""

    reason = "SPACE_NOT_ENCRYPTED"
    metadata_keys = ("space",)
    template = "space {space!r} is not encrypted"


class KeyUnavailableError(PreconditionError):
    """A key that is needed is not configured."""

    reason = "KEY_UNAVAILABLE"
    metadata_keys = ("key",)
    template = "key {key!r} is not available"


class BackupDamagedError(PreconditionError):
    """A backup is not whole, or cannot be read with the key."""

    reason = "BACKUP_DAMAGED"
    metadata_keys = ("path",)
    template = "backup {path} is damaged"


class DataDirectoryError(PreconditionError):
    """The data directory cannot be used: served by another process, not writable, or written by a newer version."""

    reason = "DATA_DIRECTORY"
    metadata_keys = ("path",)
    template = "data directory {path} cannot be used"


class InvalidSettingError(PreconditionError):
    """A setting has a value that is not allowed."""

    reason = "INVALID_SETTING"
    metadata_keys = ("setting",)
    template = "setting {setting} is not valid"


class UnauthenticatedError(MnemoError):
    """The credential is missing, unknown, expired or revoked."""

    status = Status.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    template = "no valid credential; send the header 'authorization: Bearer <API key>'"


class PermissionDeniedError(MnemoError):
    """The principal lacks a scope."""

    status = Status.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"
    metadata_keys: ClassVar[tuple[str, ...]] = ("scope",)
    template = "the credential lacks the scope {scope}"


class RoleRequiredError(PermissionDeniedError):
    """The space is shared with the caller in a role that does not allow the call."""

    reason = "ROLE_REQUIRED"
    metadata_keys = ("space", "role")
    template = "space {space!r} is not shared with you as {role}"


class AccessDeniedError(PermissionDeniedError):
    """No access policy allows the principal this."""

    reason = "ACCESS_DENIED"
    metadata_keys = ("action", "target")
    template = "no policy allows you to {action} {target}"


class ExhaustedError(MnemoError):
    """A limit is reached."""

    status = Status.RESOURCE_EXHAUSTED


class OverloadedError(ExhaustedError):
    """The server is at its limit of concurrent calls."""

    reason = "OVERLOADED"
    template = "the server is at its limit of concurrent calls"


class QuotaExceededError(ExhaustedError):
    """The space may not hold more, or no more at this time: `retry_after` is set then. Nothing was written."""

    reason = "QUOTA_EXCEEDED"
    metadata_keys = ("space", "quota", "limit")
    template = "space {space!r} has reached its limit {quota} of {limit}"


class StoreFullError(ExhaustedError):
    """The disk is full; nothing was written."""

    reason = "STORE_FULL"
    template = "the store cannot take more data: the disk is full"


class UnavailableError(MnemoError):
    """It cannot be done now; a retry may help."""

    status = Status.UNAVAILABLE


class IndexLaggingError(UnavailableError):
    """The index has not applied the wanted revision yet."""

    reason = "INDEX_LAGGING"
    metadata_keys = ("space", "wanted", "applied")
    template = "the index is at revision {applied} of space {space}, revision {wanted} was asked for"


class IndexRebuildingError(UnavailableError):
    """The index does not have the whole space yet: it is built from the event log."""

    reason = "INDEX_REBUILDING"
    metadata_keys = ("space",)
    template = "the index is being built and does not have the whole of space {space} yet"


class WrongReplicaError(UnavailableError):
    """The space belongs to another replica of the index; nothing was looked for."""

    reason = "WRONG_REPLICA"
    metadata_keys = ("space", "replica")
    template = "space {space} is not held by this replica of the index but by {replica}"


class CircuitOpenError(UnavailableError):
    """The circuit breaker refuses calls to a target that failed repeatedly; nothing was sent."""

    reason = "CIRCUIT_OPEN"
    metadata_keys = ("target",)
    template = "calls to {target} are suspended after repeated failures"


class ShuttingDownError(UnavailableError):
    """The server is draining."""

    reason = "SHUTTING_DOWN"
    template = "the server is shutting down"


class StoreUnavailableError(UnavailableError):
    """The service's own store does not answer; nothing was written."""

    reason = "STORE_UNAVAILABLE"
    template = "the store does not answer"


class PeerUnavailableError(UnavailableError):
    """Another service or the server does not answer."""

    reason = "PEER_UNAVAILABLE"
    metadata_keys = ("target",)
    template = "{target} does not answer"


class DeadlineExceededError(MnemoError):
    """The deadline passed before the answer was ready."""

    status = Status.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    template = "the deadline passed before the answer was ready"


class CancelledError(MnemoError):
    """The caller cancelled the call."""

    status = Status.CANCELLED
    reason = "CANCELLED"
    template = "the call was cancelled"


class InternalError(MnemoError):
    """A defect of the server; its log has the cause under the request id."""

    status = Status.INTERNAL
    reason = "INTERNAL"
    template = "internal error; the server's log has the cause"


def concrete_errors() -> Iterator[type[MnemoError]]:
    """Every class of the tree that has a reason, each once."""
    pending: list[type[MnemoError]] = [MnemoError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if "reason" in vars(cls):
            yield cls
