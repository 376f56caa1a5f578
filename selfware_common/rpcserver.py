"""One gRPC server as every daemon offers it: its own services plus status, health and reflection.

Errors of ours become gRPC statuses with the sentence as details, and the traceparent of the caller becomes the trace
of the handler. The socket path must be locked (sockets.InstanceLock) before a server is started on it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from selfware_common import clients, sockets
from selfware_common.errors import SelfwareError
from selfware_common.rpc import daemon_pb2, daemon_pb2_grpc

SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", clients.MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", clients.MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
]

Register = Callable[[grpc.aio.Server], None]


class RpcServer:
    """Owns one listening socket and what is served on it."""

    def __init__(self, path: Path, service_names: Iterable[str], registrations: Iterable[Register]) -> None:
        self._path = path
        self._server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[_Sentences()])
        self._health = health.aio.HealthServicer()
        self._names = [*service_names, "selfware.daemon.v1.Daemon"]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for register in registrations:
            register(self._server)
        listed = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(listed, self._server)

    async def start(self) -> bool:
        """Bind (mode 0660) and serve; True if a stale socket of a killed process had to be removed."""
        stale = sockets.clear_stale(self._path)
        before = os.umask(0o117)
        try:
            self._server.add_insecure_port(f"unix:{self._path.absolute()}")
        finally:
            os.umask(before)
        await self._server.start()
        return stale

    async def set_serving(self, serving: bool) -> None:
        """What the standard health service answers, for the whole server and each service."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ["", *self._names]:
            await self._health.set(name, state)

    async def set_component(self, name: str, well: bool) -> None:
        """What the standard health service answers for one part of the daemon, as "component.<name>". The server as a
        whole serves on: whoever restarts it for a sick part would only lose what works."""
        state = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(f"component.{name}", state)

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, give those in flight `grace_seconds`."""
        await self._server.stop(grace_seconds)


class StatusService(daemon_pb2_grpc.DaemonServicer):
    """Answers selfware.daemon.v1.Daemon from a function that fills the reply."""

    def __init__(self, describe: Callable[[], daemon_pb2.StatusReply]) -> None:
        self._describe = describe

    async def Status(self, request: daemon_pb2.StatusRequest, context: Any) -> daemon_pb2.StatusReply:
        return self._describe()


class _Sentences(grpc.aio.ServerInterceptor):
    """Turns a SelfwareError raised by any handler into its status and sentence."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        trace = clients.trace_of(handler_call_details.invocation_metadata)
        return None if handler is None else _wrap(handler, trace)


def _wrap(handler: Any, trace: str) -> grpc.RpcMethodHandler[Any, Any]:
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            _answering(handler.unary_unary, trace), handler.request_deserializer, handler.response_serializer
        )
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(
            _answering(handler.stream_unary, trace), handler.request_deserializer, handler.response_serializer
        )
    if handler.unary_stream:
        return grpc.unary_stream_rpc_method_handler(
            _streaming(handler.unary_stream, trace), handler.request_deserializer, handler.response_serializer
        )
    return grpc.stream_stream_rpc_method_handler(
        _streaming(handler.stream_stream, trace), handler.request_deserializer, handler.response_serializer
    )


def _answering(behaviour: Callable[..., Awaitable[Any]], trace: str) -> Callable[..., Awaitable[Any]]:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        clients.trace_id.set(trace)
        try:
            return await behaviour(request, context)
        except SelfwareError as error:
            await context.abort(error.status, str(error))

    return answer


def _streaming(behaviour: Callable[..., AsyncIterator[Any]], trace: str) -> Callable[..., AsyncIterator[Any]]:
    async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        clients.trace_id.set(trace)
        try:
            async for reply in behaviour(request, context):
                yield reply
        except SelfwareError as error:
            await context.abort(error.status, str(error))

    return stream
