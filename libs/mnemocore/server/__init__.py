"""Everything a service needs to serve: a host with its stages, in-process channels, validation, lifecycle."""

from mnemocore.server.admission import MAX_STREAMS, AdmissionLimits
from mnemocore.server.chain import Encoded
from mnemocore.server.host import Host, HostPart, Service
from mnemocore.server.identity import Authenticator, InternalAuthenticator
from mnemocore.server.inprocess import LocalChannel
from mnemocore.server.lifecycle import BackgroundTask, Lifecycle, Part
from mnemocore.server.validation import Validator

__all__ = [
    "MAX_STREAMS",
    "AdmissionLimits",
    "Authenticator",
    "BackgroundTask",
    "Encoded",
    "Host",
    "HostPart",
    "InternalAuthenticator",
    "Lifecycle",
    "LocalChannel",
    "Part",
    "Service",
    "Validator",
]
