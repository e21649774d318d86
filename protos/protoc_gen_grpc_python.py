"""A buf plugin for grpcio-tools' service generator.

`buf` can use the message generator inside `grpc_tools.protoc`, but not its service generator, which has no executable
of its own. This plugin hands buf's request to it: descriptors in, generated files out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler import plugin_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def main() -> int:
    """Answer one CodeGeneratorRequest from stdin on stdout; returns the exit code of the generator."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.binpb")
        descriptors.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        out = Path(folder, "out")
        out.mkdir()
        code = int(
            protoc.main(
                [
                    "protoc",
                    f"--descriptor_set_in={descriptors}",
                    f"--grpc_python_out={out}",
                    *request.file_to_generate,
                ]
            )
        )
        for path in sorted(out.rglob("*.py")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text())
    sys.stdout.buffer.write(response.SerializeToString())
    return code


if __name__ == "__main__":
    sys.exit(main())
