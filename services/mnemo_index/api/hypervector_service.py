"""HypervectorService on the wire."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from mnemo_index.api.operands import (
    OperandReader,
    from_match,
    from_meaning,
    to_sketch_bits,
    to_weights,
)
from mnemo_index.domain.hypervectors import Text
from mnemocore import calls
from mnemocore.errors import DeadlineExceededError
from mnemocore.index.v1 import hypervector_service_pb2 as pb
from mnemocore.index.v1 import hypervector_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    import grpc

    from mnemo_index.domain.hypervectors import HypervectorAlgebra, Operand

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")


class HypervectorServicer(hypervector_service_pb2_grpc.HypervectorServiceServicer):
    """Converts, calls the domain, converts back, all of it in a thread of `executor`: requests may be megabytes."""

    def __init__(self, algebra: HypervectorAlgebra, executor: Executor) -> None:
        self._algebra = algebra
        self._executor = executor

    async def EncodeHypervectors(
        self, request: pb.EncodeHypervectorsRequest, context: Context
    ) -> pb.EncodeHypervectorsResponse:
        def answer() -> pb.EncodeHypervectorsResponse:
            meanings = self._algebra.encode(OperandReader().operands(request.operands, "operands"))
            return pb.EncodeHypervectorsResponse(vectors=[from_meaning(each) for each in meanings])

        return await self._run(answer)

    async def BindHypervectors(
        self, request: pb.BindHypervectorsRequest, context: Context
    ) -> pb.BindHypervectorsResponse:
        def answer() -> pb.BindHypervectorsResponse:
            bound = self._algebra.bind(OperandReader().operands(request.operands, "operands"))
            return pb.BindHypervectorsResponse(vector=from_meaning(bound))

        return await self._run(answer)

    async def BundleHypervectors(
        self, request: pb.BundleHypervectorsRequest, context: Context
    ) -> pb.BundleHypervectorsResponse:
        def answer() -> pb.BundleHypervectorsResponse:
            operands = OperandReader().operands(request.operands, "operands")
            weights = to_weights(request.weights, len(operands))
            bundled = self._algebra.bundle(operands, weights, request.tie_seed)
            return pb.BundleHypervectorsResponse(vector=from_meaning(bundled))

        return await self._run(answer)

    async def PermuteHypervectors(
        self, request: pb.PermuteHypervectorsRequest, context: Context
    ) -> pb.PermuteHypervectorsResponse:
        def answer() -> pb.PermuteHypervectorsResponse:
            operands = OperandReader().operands(request.operands, "operands")
            permuted = self._algebra.permute(operands, request.shift)
            return pb.PermuteHypervectorsResponse(vectors=[from_meaning(each) for each in permuted])

        return await self._run(answer)

    async def CompareHypervectors(
        self, request: pb.CompareHypervectorsRequest, context: Context
    ) -> pb.CompareHypervectorsResponse:
        def answer() -> pb.CompareHypervectorsResponse:
            reader = OperandReader()
            queries = reader.operands(request.queries, "queries")
            candidates = reader.operands(request.candidates, "candidates")
            rows = self._algebra.compare(queries, candidates, to_sketch_bits(request.sketch_bits))
            return pb.CompareHypervectorsResponse(rows=[pb.Similarities(values=row.tolist()) for row in rows])

        return await self._run(answer)

    async def CleanUpHypervector(
        self, request: pb.CleanUpHypervectorRequest, context: Context
    ) -> pb.CleanUpHypervectorResponse:
        def answer() -> pb.CleanUpHypervectorResponse:
            reader = OperandReader()
            operand = reader.operand(request.operand, "operand")
            codebook = reader.codebook(request.codebook)
            found = self._algebra.clean_up(operand, codebook, request.neighbours, request.limit)
            return pb.CleanUpHypervectorResponse(
                answer=from_match(found.answer), steps=found.answer.steps, matches=map(from_match, found.matches)
            )

        return await self._run(answer)

    async def SolveAnalogy(self, request: pb.SolveAnalogyRequest, context: Context) -> pb.SolveAnalogyResponse:
        def answer() -> pb.SolveAnalogyResponse:
            reader = OperandReader()
            three = (
                reader.operand(request.first, "first"),
                reader.operand(request.second, "second"),
                reader.operand(request.third, "third"),
            )
            codebook = reader.codebook(request.codebook)
            by_difference = _by_difference(request.method, three)
            found = self._algebra.analogy(three, codebook, request.limit, by_difference=by_difference)
            return pb.SolveAnalogyResponse(
                answer=from_match(found.answer), steps=found.answer.steps, matches=map(from_match, found.matches)
            )

        return await self._run(answer)

    async def _run(self, work: Callable[[], T]) -> T:
        """Do `work` beside the event loop. Raises DeadlineExceededError if the call has no time left for it."""
        deadline = calls.deadline.get()

        def begin() -> T:
            if deadline is not None and deadline <= time.monotonic():
                raise DeadlineExceededError
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._executor, begin)


def _by_difference(method: int, three: tuple[Operand, ...]) -> bool:
    if method == pb.ANALOGY_METHOD_UNSPECIFIED:
        return all(isinstance(operand, Text) for operand in three)
    return method == pb.ANALOGY_METHOD_DIFFERENCE
