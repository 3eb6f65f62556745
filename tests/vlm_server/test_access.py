"""Who is let in: tokens, scopes, TLS, and files that others can read."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from covr.prior.channel import connect
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from vlm_server import access, addresses, token_files
from vlm_server.admission import Admission
from vlm_server.interception import Refusals
from vlm_server.limits import Limits

TLS = Path(__file__).parent / "tls"
CALLS = {  # every call of the contract, by the scope that docs/server.md gives it
    "ask": ("Prior/GetServerInfo", "Prior/Predict", "Adapter/ListAdapters", "Adapter/GetAdapter"),
    "tune": (
        "Tuning/UploadSamples", "Tuning/StartTuning", "Tuning/WatchTuning", "Tuning/CancelTuning",
        "Adapter/ActivateAdapter", "Adapter/RollBackAdapter",
    ),
    "admin": ("Adapter/DeleteAdapter",),
}  # fmt: skip


class Services(pb_grpc.PriorServiceServicer, pb_grpc.TuningServiceServicer, pb_grpc.AdapterServiceServicer):
    """Implements one call alone, and counts it; gRPC raises in all others."""

    def __init__(self):
        self.asked = 0
        self.release = futures.Future()

    def GetServerInfo(self, request, context):
        self.asked += 1
        if request.protocol_version == "wait":
            self.release.result(30)
        return pb.GetServerInfoResponse(protocol_version="1.1")


@pytest.fixture
def serve():
    running = []

    def start(*interceptors, credentials=None):
        services = Services()
        server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=interceptors)
        pb_grpc.add_PriorServiceServicer_to_server(services, server)
        pb_grpc.add_TuningServiceServicer_to_server(services, server)
        pb_grpc.add_AdapterServiceServicer_to_server(services, server)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        running.append(server)
        return f"127.0.0.1:{port}", services

    yield start
    for server in running:
        server.stop(0)


def private(file: Path, text: str | bytes) -> Path:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    file.chmod(0o600)
    return file


def code(channel, call, metadata=(), data=b""):
    service, _, method = call.partition("/")
    stub = channel.stream_stream(f"/covr.prior.v1.{service}Service/{method}")
    try:
        list(stub(iter([data]), timeout=20, metadata=metadata))
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


@pytest.fixture
def made(tmp_path):
    """Server's file, and the token files of three clients with one scope each."""
    file = tmp_path / "server.json"
    for scope in access.SCOPES:
        token_files.add(file, f"{scope}er", [scope], tmp_path / scope)
    return file, {scope: tmp_path / scope for scope in access.SCOPES}


def test_each_token_opens_the_calls_of_its_scope_alone(serve, made):
    file, holders = made
    address, services = serve(access.Access(access.read(file)), Refusals())
    called = {each for calls in CALLS.values() for each in calls}
    everything = {
        f"{service.name.removesuffix('Service')}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert called == everything
    for holder, token_file in holders.items():
        with connect(address, token_file=str(token_file)) as channel:
            for scope, calls in CALLS.items():
                for call in calls:
                    got, words = code(channel, call)
                    if scope == holder:
                        assert got in ("OK", "INTERNAL"), call  # let in, to a handler that is not there
                    else:
                        assert (got, words) == ("PERMISSION_DENIED", f"token {holder}er lacks the scope {scope}")
    assert services.asked == 1


def test_strangers_are_refused_before_anything_is_read(serve, made):
    file, holders = made
    address, services = serve(access.Access(access.read(file)))
    token = holders["ask"].read_text().strip()
    wrong = [
        (),
        (("authorization", ""),),
        (("authorization", token),),
        (("authorization", f"bearer {token}"),),
        (("authorization", f"Bearer {token}0"),),
        (("authorization", f"Bearer {token[:-1]}"),),
        (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
        (("authorization", f"Bearer {hashlib.sha256(token.encode()).hexdigest()}"),),  # what the server's file holds
        (("authorization-bin", f"Bearer {token}".encode()),),
    ]
    with connect(address) as channel:
        for metadata in wrong:
            got, words = code(channel, "Prior/GetServerInfo", metadata, b"\xff" * 100)
            assert got == "UNAUTHENTICATED" and "Bearer <token>" in words and token not in words
        assert code(channel, "Prior/GetServerInfo", (("authorization", f"Bearer {token}"),)) == ("OK", "")
        request = health_pb2.HealthCheckRequest()
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status  # open to probes
        with pytest.raises(grpc.RpcError):
            ProtoReflectionDescriptorDatabase(channel).get_services()
    assert services.asked == 1
    with connect(address, token_file=str(holders["ask"])) as channel:
        assert reflection.SERVICE_NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_calls_that_nobody_listed_are_for_administrators():
    assert access.needed("/covr.prior.v1.AdapterService/New") == "admin"
    assert access.needed("/covr.prior.v9.PriorService/Predict") == "admin" and access.needed("") == "admin"
    assert access.needed("/grpc.health.v1.Health/Watch") == ""


def test_the_server_keeps_digests_in_files_of_its_own(made):
    file, holders = made
    for each in (file, *holders.values()):
        assert each.stat().st_mode & 0o777 == 0o600
    secrets = [each.read_text().strip() for each in holders.values()]
    assert len(set(secrets)) == 3 and all(len(secret) == 64 for secret in secrets)
    assert not any(secret in file.read_text() for secret in secrets)
    token_files.revoke(file, "asker")
    assert [token.name for token in access.read(file)] == ["tuneer", "adminer"]
    token_files.add(file, "asker", ["ask", "tune"], holders["ask"].with_name("new"))
    assert access.read(file)[-1].scopes == {"ask", "tune"}


def test_bad_wishes_for_tokens_change_nothing(made, tmp_path):
    file, _ = made
    before = file.read_bytes()
    for name, scopes, out, words in [
        ("asker", ["ask"], "x", "already"),
        ("../x", ["ask"], "x", "must match"),
        ("new", ["root"], "x", "must be of ask, tune, admin"),
        ("new", [], "x", "must be of"),
        ("new", ["ask"], "ask", "exists"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            token_files.add(file, name, scopes, tmp_path / out)
        assert "\n" not in str(caught.value) and file.read_bytes() == before
    with pytest.raises(ValueError, match="no token called 'who'"):
        token_files.revoke(file, "who")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "\xff", '{"a": 1}', '{"a": {"sha256": "00", "scopes": ["ask"]}}']
    + [json.dumps({"a": {"sha256": "0" * 64, "scopes": scopes}}) for scopes in (["root"], [], "ask", 1)]
    + [json.dumps({"A": {"sha256": "0" * 64, "scopes": ["ask"]}})],
)  # fmt: skip
def test_a_file_without_proper_tokens_is_refused(tmp_path, text):
    with pytest.raises(ValueError) as caught:
        access.read(private(tmp_path / "f", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_files_that_others_can_read_are_refused(made, mode):
    file, holders = made
    file.chmod(mode)
    holders["ask"].chmod(mode)
    for use in (lambda: access.read(file), lambda: connect("127.0.0.1:1", token_file=str(holders["ask"]))):
        with pytest.raises(ValueError, match="is open to others"):
            use()


def test_a_token_does_not_travel_in_the_clear(made):
    holder = str(made[1]["ask"])
    for address in ("10.0.0.1:1", "grpc://example.org:1", "127.0.0.1.example.org:1", "localhost.example.org:1"):
        with pytest.raises(ValueError, match="over TLS only") as caught:
            connect(address, token_file=holder)
        assert "\n" not in str(caught.value)
    for address in ("127.0.0.1:1", "grpc://localhost:1", "[::1]:1", "unix:/tmp/s", "grpcs://example.org:1"):
        connect(address, token_file=holder).close()


def test_bad_files_of_a_client_are_told_in_one_line(tmp_path):
    private(tmp_path / "short", "abc")
    private(tmp_path / "two", "a" * 40 + "\n" + "b" * 40)
    for name in ("nowhere", "short", "two"):
        with pytest.raises(ValueError, match=f"token_file: .*{name}"):
            connect("127.0.0.1:1", token_file=str(tmp_path / name))
    with pytest.raises(ValueError, match=r"ca_file: .*nowhere"):
        connect("127.0.0.1:1", ca_file=str(tmp_path / "nowhere"))


@pytest.fixture
def credentials(tmp_path):
    key = private(tmp_path / "key.pem", (TLS / "test_key.pem").read_bytes())
    return addresses.credentials(str(TLS / "test_cert.pem"), str(key))


def test_tls_with_a_token(serve, made, credentials):
    file, holders = made
    address, services = serve(access.Access(access.read(file)), credentials=credentials)
    ca, token = str(TLS / "test_cert.pem"), str(holders["ask"])  # the key beside it is public: for tests alone
    with connect(f"grpcs://{address}", token_file=token, ca_file=ca) as channel:
        assert code(channel, "Prior/GetServerInfo") == ("OK", "")
    with connect(f"grpc://{address}") as channel:  # no TLS
        assert code(channel, "Prior/GetServerInfo")[0] == "UNAVAILABLE"
    with connect(f"grpcs://{address}", token_file=token) as channel:  # the system does not know this certificate
        assert code(channel, "Prior/GetServerInfo")[0] == "UNAVAILABLE"
    assert services.asked == 1


def test_bad_tls_files_are_told_in_one_line(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(TLS / "test_cert.pem", cert)
    shutil.copy(TLS / "test_key.pem", key)
    key.chmod(0o644)
    for arguments, words in [
        ((str(cert), ""), "belong together"),
        (("", str(key)), "belong together"),
        ((str(tmp_path / "no"), str(key)), "tls_cert"),
        ((str(cert), str(key)), "open to others"),
    ]:
        with pytest.raises(ValueError, match=words):
            addresses.credentials(*arguments)
    key.chmod(0o600)
    with pytest.raises(ValueError, match="PEM"):
        addresses.credentials(str(key), str(key))
    assert addresses.credentials("", "") is None


def test_calls_are_bounded_by_client_and_together_and_health_is_not(serve):
    limits = Limits(max_concurrent_calls=3, max_calls_per_client=2)
    address, services = serve(Refusals(), Admission(limits))
    options = [("grpc.use_local_subchannel_pool", 1)]  # connections of their own: three clients
    channels = [grpc.insecure_channel(address, options) for _ in range(3)]
    stubs = [pb_grpc.PriorServiceStub(channel) for channel in channels]
    waiting, now = pb.GetServerInfoRequest(protocol_version="wait"), pb.GetServerInfoRequest()
    held = [stubs[0].GetServerInfo.future(waiting, timeout=30) for _ in range(2)]
    _until(lambda: services.asked == 2)

    def refused(stub):
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetServerInfo(now, timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return caught.value.details()

    assert "max_calls_per_client" in refused(stubs[0])
    held.append(stubs[1].GetServerInfo.future(waiting, timeout=30))
    _until(lambda: services.asked == 3)
    assert "max_concurrent_calls" in refused(stubs[2])
    assert health_pb2_grpc.HealthStub(channels[2]).Check(health_pb2.HealthCheckRequest(), timeout=20)
    services.release.set_result(None)
    assert [each.result().protocol_version for each in held] == ["1.1"] * 3
    _until(lambda: stubs[2].GetServerInfo(now, timeout=20).protocol_version == "1.1")
    for channel in channels:
        channel.close()


def _until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
