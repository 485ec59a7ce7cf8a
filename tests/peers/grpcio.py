"""grpcio, the C-core client, as a judge of HTTP/2, trailers, deadlines, health and reflection (v1alpha).

Alone: `target/peers-venv/bin/python tests/peers/grpcio.py` after .ci/run installed things.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection
from grpc_status import rpc_status

TOP = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPENCODE_API", TOP / "target/debug/opencode-api")
SERVICE = "opencode.v1.OpenCodeService"
DEMO = {"parts": [{"text": {"text": "hello"}}], "model": "mock/demo"}


def serve(folder):
    """Starts a server of its own on a free port; gives its process and its address."""
    env = {"PATH": os.environ["PATH"], "HOME": folder, "GRPC_PORT": "0", "HTTP_PORT": "0"}
    env |= {"OPENCODE_WORKSPACE": f"{folder}/workspace", "OPENCODE_DATA_DIR": f"{folder}/data"}
    log = open(f"{folder}/log", "w")
    server = subprocess.Popen([BINARY], env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    line = server.stdout.readline()
    address = re.fullmatch(r"listening on http://(\S+)\n", line)
    assert address, f"the server did not start: {line!r} {Path(log.name).read_text()}"
    return server, address[1]


class Client:
    """A client that knows the service by reflection alone."""

    def __init__(self, address):
        # A proxy of the machine has no part in this.
        self.channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self.database = reflection.ProtoReflectionDescriptorDatabase(self.channel)
        self.service = descriptor_pool.DescriptorPool(self.database).FindServiceByName(SERVICE)

    def call(self, name, request=None, **options):
        method = self.service.FindMethodByName(name)
        asked, answered = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        rpc = kind(f"/{SERVICE}/{name}", asked.SerializeToString, answered.FromString)
        return rpc(asked(**(request or {})), **options)

    def refused(self, code, name, request=None, **options):
        """The error of a call that has to end with this code."""
        try:
            answer = self.call(name, request, **options)
            for _ in answer if hasattr(answer, "__next__") else ():
                pass
        except grpc.RpcError as error:
            assert error.code() is code, (name, error)
            return error
        raise AssertionError(f"{name} was not refused")


def health_and_reflection(client):
    assert SERVICE in client.database.get_services(), client.database.get_services()
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", SERVICE):
        status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
        assert status == health_pb2.HealthCheckResponse.SERVING, (service, status)
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=5)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=5)
        raise AssertionError("a service that is not there has no health")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND, error


def session_and_turn(client):
    first = client.call("GetSession", timeout=5).session
    assert first.id.startswith("ses_"), first
    assert client.call("GetSession", timeout=5).session.id == first.id

    # A turn streams while it runs, in order, and ends with `turn_completed`, status OK and the cursor as a trailer.
    stream = client.call("SendMessage", DEMO, timeout=30)
    events, times = [], []
    for event in stream:
        events.append(event)
        times.append(time.monotonic())
    assert stream.code() is grpc.StatusCode.OK, stream
    assert times[-1] - times[0] > 0.5, "the whole turn came at once"
    numbers = [event.seq for event in events if event.seq]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), numbers
    kinds = [event.WhichOneof("response") for event in events]
    started, completed = kinds.count("message_started"), kinds.count("message_completed")
    assert started == completed >= 2, (started, completed)
    assert kinds.count("tool_call_started") == kinds.count("tool_call_completed") >= 2, kinds
    assert "content_delta" in kinds
    last = [event for event in events if event.WhichOneof("response")][-1]
    assert last.other.WhichOneof("event") == "turn_completed", last
    assert last.other.turn_completed.finish_reason == 1, last  # END_TURN

    # The text that was streamed is the text that is stored.
    text = {}
    for event in events:
        if event.WhichOneof("response") == "content_delta":
            delta = event.content_delta
            text[delta.message_id] = text.get(delta.message_id, "") + delta.text
    listed = client.call("ListMessages", timeout=5).messages
    stored = {
        message.id: "".join(part.text.text for part in message.parts if part.WhichOneof("content") == "text")
        for message in listed
    }
    assert text and all(stored[id] == said for id, said in text.items()), (text, stored)


def deadline_ends_the_view_only(client):
    stream = client.call("SendMessage", DEMO, timeout=0.5)
    turn = None
    began = time.monotonic()
    try:
        for event in stream:
            turn = event.other.turn_id or turn
        raise AssertionError("the stream outlived its deadline")
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert time.monotonic() - began < 2, "the deadline was late"
    assert turn, "nothing had come before the deadline"
    # PROCESSING: the turn goes on without anybody looking, to its own end.
    assert client.call("GetAgentStatus", timeout=5).status == 2
    done = client.call("GetTurn", {"turn_id": turn, "wait": 20}, timeout=30).turn
    assert done.finish_reason == 1, done


def errors_have_details(client):
    error = client.refused(grpc.StatusCode.INVALID_ARGUMENT, "ListMessages", {"pagination": {"limit": -1}}, timeout=5)
    status = rpc_status.from_call(error)
    details = {detail.type_url.rsplit(".", 1)[1]: detail for detail in status.details}
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert details["ErrorInfo"].Unpack(info) and details["BadRequest"].Unpack(bad), details
    assert (info.reason, info.domain) == ("INVALID_ARGUMENT", "opencode.v1"), info
    assert info.metadata["request_id"] and info.metadata["retryable"] == "false", info
    assert "limit" in bad.field_violations[0].field, bad

    client.refused(grpc.StatusCode.NOT_FOUND, "GetMessage", {"message_id": "msg_no_such_message"}, timeout=5)
    for path in (f"/{SERVICE}/NoSuchMethod", "/no.such.Service/Method"):
        rpc = client.channel.unary_unary(path, lambda nothing: b"", lambda data: data)
        try:
            rpc(None, timeout=5)
            raise AssertionError(f"{path} answers")
        except grpc.RpcError as unknown:
            assert unknown.code() is grpc.StatusCode.UNIMPLEMENTED, unknown


def main():
    folder = tempfile.mkdtemp(prefix="opencode-peer-")
    server, address = serve(folder)
    try:
        client = Client(address)
        for check in (health_and_reflection, session_and_turn, deadline_ends_the_view_only, errors_have_details):
            check(client)
            print(f"grpcio: {check.__name__.replace('_', ' ')}")
    except BaseException:
        print(Path(folder, "log").read_text()[-4000:])
        raise
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


main()
