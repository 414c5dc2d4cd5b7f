"""What users expect of a front door, asked of a real one: API server, controller, HAProxy and pods."""

from __future__ import annotations

import base64
import collections
import hashlib
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from tests.support import echo_backends, ingress
from tests.support import ingress_objects as o
from tests.support.ingress_clients import (
    answer_all,
    logged,
    over_http2,
    proxied,
    secured,
    status_with,
    statuses_over_http2,
)
from tests.support.ingress_serve import PREFIX, known, serve


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ingress.Door]:
    """A door with Services `web` and `other`."""
    with ingress.door(tmp_path_factory.mktemp("door")) as made:
        made.api.apply(o.ingress_class())
        made.service("web", pods=3)
        made.service("other")
        known(made, "web", "other")
        yield made


def test_plain_requests_are_sent_to_https_and_answers_over_it_say_to_stay(door: ingress.Door) -> None:
    serve(door, "secure.example", tls=True, ssl_redirect="true", hsts_max_age="600", hsts_include_subdomains="true",
          hsts_preload="true")  # fmt: skip
    answer = door.refuses("http://secure.example/a?b=c", 308)
    assert answer.headers["location"] == "https://secure.example/a?b=c"
    said = door.answers("https://secure.example/", "web").headers["strict-transport-security"]
    assert said == "max-age=600; includeSubDomains; preload"
    serve(door, "bare.example", ssl_redirect="true")
    door.answers("http://bare.example/", "web")
    serve(door, "bare.example", force_ssl_redirect="true")
    assert door.refuses("http://bare.example/", 308).headers["location"] == "https://bare.example/"


def test_paths_and_hosts_are_rewritten(door: ingress.Door) -> None:
    serve(door, "whole.example", rewrite_target="/app", upstream_vhost="inner.example")
    answer = door.answers("http://whole.example/x/y?q=1", "web")
    assert (answer.said["path"], answer.said["host"]) == ("/app?q=1", "inner.example")
    serve(door, "part.example", at="/api", rewrite_prefix="/v2")
    assert door.answers("http://part.example/api/x", "web").said["path"] == "/v2/x"


def test_redirects_lead_away_to_the_very_text(door: ingress.Door) -> None:
    serve(door, "moved.example", permanent_redirect="https://new.example")
    assert door.refuses("http://moved.example/x?q=1", 301).headers["location"] == "https://new.example"
    serve(door, "moved.example", temporal_redirect="https://new.example/there?why=moved#top")
    answer = door.refuses("http://moved.example/x?q=1", 302)
    assert answer.headers["location"] == "https://new.example/there?why=moved#top"


def test_clients_are_let_in_by_network(door: ingress.Door) -> None:
    serve(door, "inside.example", allowlist_source_range="10.0.0.0/8")
    door.refuses("http://inside.example/", 403)
    serve(door, "open.example", denylist_source_range="10.0.0.0/8", allowlist_source_range="203.0.113.0/24")
    door.answers("http://open.example/", "web")


def test_passwords_are_asked_for_and_checked(door: ingress.Door) -> None:
    hashed = "{SHA}" + base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    door.api.apply(o.secret("users", {"auth": f"ann:{hashed}\n"}))
    serve(door, "private.example", auth_type="basic", auth_secret="users", auth_realm="here")
    answer = door.refuses("http://private.example/", 401)
    assert answer.headers["www-authenticate"].startswith('Basic realm="here"')
    right, wrong = (base64.b64encode(f"ann:{word}".encode()).decode() for word in ("secret", "guess"))
    door.answers("http://private.example/", "web", headers={"Authorization": f"Basic {right}"})
    door.refuses("http://private.example/", 401, headers={"Authorization": f"Basic {wrong}"})


def test_another_service_decides_who_comes_in(door: ingress.Door) -> None:
    serve(door, "asked.example", auth_url="http://other.default.svc:8080/check", auth_response_headers="Server")
    answer = door.answers("http://asked.example/x", "web", headers={"X-Who": "me"})
    assert answer.sent("server") == ["echo"]
    door.refuses("http://asked.example/", 403, headers={"x-echo-status": "403"})
    door.refuses("http://asked.example/", 401, headers={"x-echo-status": "401"})


def test_browsers_learn_which_origins_may_ask(door: ingress.Door) -> None:
    serve(door, "cors.example", enable_cors="true", cors_allow_origin="https://*.friend.example",
          cors_expose_headers="X-One, X-Two", cors_max_age="60")  # fmt: skip
    origin = {"Origin": "https://a.friend.example"}
    answer = door.answers("http://cors.example/", "web", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://a.friend.example"
    assert answer.headers["access-control-expose-headers"] == "X-One, X-Two"
    asked = {**origin, "Access-Control-Request-Method": "PUT"}
    answer = door.ask("http://cors.example/", method="OPTIONS", headers=asked)
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-max-age"] == "60"
    stranger = door.ask("http://cors.example/", headers={"Origin": "https://friend.example.evil"})
    assert "access-control-allow-origin" not in stranger.headers


def test_an_origin_that_is_not_named_gets_no_credentials(door: ingress.Door) -> None:
    serve(door, "anybody.example", enable_cors="true")
    origin = {"Origin": "https://evil.test"}
    for method, headers in (("GET", origin), ("OPTIONS", {**origin, "Access-Control-Request-Method": "PUT"})):
        answer = door.ask("http://anybody.example/", method=method, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


def test_who_asks_is_the_doors_to_say(door: ingress.Door) -> None:
    serve(door, "said.example")
    names = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-IP", "X-Scheme"]
    forged = [*names, "Forwarded", "SSL-Client-Verify", "ssl-client-subject-dn", "x_real_ip", "X-Kept"]
    for path in ("/", "/%20"):  # At once, and by the rules for all others.
        sent = door.answers(f"http://said.example{path}", "web", headers=dict.fromkeys(forged, "forged")).said[
            "headers"
        ]
        assert [sent.get(name.lower()) for name in names] == [
            [ingress.DOOR], ["said.example"], ["80"], ["http"], [ingress.DOOR], ["http"],
        ]  # fmt: skip
        assert [name for name, lines in sent.items() if lines == ["forged"]] == ["x-kept"]


def test_a_guarded_path_is_guarded_however_it_is_written(door: ingress.Door) -> None:
    serve(door, "odd.example")
    annotations = {f"{PREFIX}denylist-source-range": "0.0.0.0/0"}
    door.api.apply(o.ingress("guard", o.rule("odd.example", o.path("/admin", "web")), annotations=annotations))
    door.refuses("http://odd.example/admin/x", 403)
    for path in ("/%61dmin", "//admin", "/%2fadmin", "/%61dm%69n%2Fx", "/admin//x"):
        assert door.ask(f"http://odd.example{path}").status == 403, path
    for path in ("/x/../admin", "/x/%2e%2E/admin", "/x/..%2fadmin", "//./admin"):
        assert door.ask(f"http://odd.example{path}").status == 400, path
    for path in ("/%2561dmin", "//a%20b", "/.well-known/x"):
        assert door.answers(f"http://odd.example{path}", "web").said["path"] == path


def test_clients_that_ask_for_too_much_at_once_are_told_so(door: ingress.Door) -> None:
    serve(door, "crowd.example", limit_connections="1")
    with socket.create_connection((ingress.DOOR, 80), timeout=ingress.PATIENCE) as held:
        held.sendall(b"GET / HTTP/1.1\r\nHost: crowd.example\r\nx-echo-delay: 30\r\n\r\n")
        door.refuses("http://crowd.example/", 429)


def test_clients_that_ask_too_often_are_told_so(door: ingress.Door) -> None:
    serve(door, "spared.example", limit_rps="1")
    serve(door, "limited.example", limit_rps="1")
    statuses = [0]
    # However slow this machine is, who asks without a pause asks more than once a second.
    while statuses[-1] != 429 and len(statuses) < 200:
        statuses.append(door.ask("http://limited.example/").status)
    assert statuses[1:6] == [200] * 5
    assert statuses[-1] == 429
    assert set(statuses[1:-1]) == {200}
    # What is asked of another Ingress is counted on its own.
    assert door.ask("http://spared.example/").status == 200


def test_bodies_that_are_too_large_are_refused(door: ingress.Door) -> None:
    serve(door, "small.example", proxy_body_size="1k")
    assert door.ask("http://small.example/", method="POST", body=b"x" * 1024).status == 200
    assert door.ask("http://small.example/", method="POST", body=b"x" * 1025).status == 413
    chunked = {"Transfer-Encoding": "chunked"}
    assert door.ask("http://small.example/", method="POST", headers=chunked).status == 411
    # HTTP/2 says no length where there is none, and nothing of how a body comes.
    for options, body in (["--data-binary", "x" * 1024], b""), (["-X", "POST"], b""), (["-T", "-"], b"x" * 2000):
        over_http2("small.example", *options, body=body)
    door.until(lambda: statuses_over_http2(door, "small.example") == [200, 200, 411])


def test_slow_backends_are_given_up(door: ingress.Door) -> None:
    serve(door, "slow.example", proxy_read_timeout="100ms")
    door.refuses("http://slow.example/", 504, headers={"x-echo-delay": "9"})


def test_a_websocket_in_which_nothing_is_said_ends_after_its_own_time(door: ingress.Door) -> None:
    serve(door, "quiet.example", tunnel_timeout="300ms")
    with socket.create_connection((ingress.DOOR, 80), timeout=ingress.PATIENCE) as stream:
        stream.sendall(
            b"GET /-/socket HTTP/1.1\r\nHost: quiet.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        assert stream.recv(4096).startswith(b"HTTP/1.1 101 ")
        # What the pod has said until then; the end would come after an hour without the annotation.
        while stream.recv(4096):
            pass


def test_a_cookie_keeps_a_client_at_its_pod(door: ingress.Door) -> None:
    serve(door, "sticky.example", affinity="cookie", session_cookie_name="route")
    first = door.answers("http://sticky.example/", "web")
    cookie = first.headers["set-cookie"].partition(";")[0]
    assert cookie.startswith("route=")
    pods = {door.ask("http://sticky.example/", headers={"Cookie": f"a=b; {cookie}"}).said["pod"] for _ in range(9)}
    assert pods == {first.said["pod"]}


def test_a_canary_gets_its_share_its_header_and_its_cookie(door: ingress.Door) -> None:
    serve(door, "split.example")
    annotations = {f"{PREFIX}canary": "true", f"{PREFIX}canary-weight": "30", f"{PREFIX}canary-by-header": "X-Canary",
                   f"{PREFIX}canary-by-cookie": "try"}  # fmt: skip
    door.api.apply(o.ingress("trial", o.rule("split.example", o.path("/", "other")), annotations=annotations))
    door.answers("http://split.example/", "other", headers={"X-Canary": "always"})
    door.answers("http://split.example/", "other", headers={"Cookie": "try=always"})
    asked = [door.backend(door.ask("http://split.example/")) for _ in range(300)]
    assert 50 < collections.Counter(asked)["default/other"] < 140
    assert {door.backend(door.ask("http://split.example/", headers={"X-Canary": "never"})) for _ in range(9)} == {
        "default/web"
    }


def test_backends_are_spoken_to_over_tls_and_verified(door: ingress.Door) -> None:
    ports = [{"name": "https", "port": 8443, "targetPort": echo_backends.HTTPS}]
    door.service("inner", ports=ports)
    names = {f"{PREFIX}backend-protocol": "HTTPS"}
    rule = o.rule("inner.example", o.path("/", "inner", port=8443))
    door.api.apply(o.ingress("inner", rule, annotations=names))
    door.until(lambda: door.answers("http://inner.example/", "inner").said["secure"])
    door.api.apply(o.secret("stranger-ca", {"ca.crt": o.key_pair("stranger.example")[0]}))
    names |= {f"{PREFIX}proxy-ssl-verify": "on", f"{PREFIX}proxy-ssl-secret": "stranger-ca"}
    door.api.apply(o.ingress("inner", rule, annotations=names))
    door.refuses("http://inner.example/", 503)


def test_backends_that_show_the_right_certificate_are_spoken_to(door: ingress.Door) -> None:
    certificate, key = o.key_pair("right.example")
    (door.folder / "right.pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(door.folder / "right.pem")
    with (
        socket.create_server(("10.244.200.1", 9443)) as plain,
        context.wrap_socket(plain, server_side=True) as listener,
    ):
        server = threading.Thread(target=answer_all, args=(listener,), daemon=True)
        server.start()
        ports = [{"name": "https", "port": 9443, "targetPort": 9443}]
        door.api.apply(o.service("right", ports=ports))
        door.api.apply(o.endpoint_slice("right", ["10.244.200.1"], ports=ports))
        door.api.apply(o.secret("right-ca", {"ca.crt": certificate}))
        names = {"backend-protocol": "HTTPS", "proxy-ssl-verify": "on", "proxy-ssl-secret": "right-ca"}
        for name, status in (("right.example", 200), ("wrong.example", 503)):
            said = {f"{PREFIX}{key}": text for key, text in {**names, "proxy-ssl-name": name}.items()}
            door.api.apply(o.ingress("right", o.rule("r.example", o.path("/", "right", port=9443)), annotations=said))
            door.until(lambda status=status: door.ask("http://r.example/").status == status)  # type: ignore[misc]


def test_clients_show_certificates(door: ingress.Door) -> None:
    certificate, key = o.key_pair("client.example")
    door.api.apply(o.secret("clients", {"ca.crt": certificate}))
    serve(door, "mutual.example", tls=True, auth_tls_secret="clients")
    door.refuses("https://mutual.example/", 403)
    (door.folder / "client.pem").write_text(certificate + key)
    door.until(lambda: status_with(door, "mutual.example", str(door.folder / "client.pem")) == 200)
    stranger = o.key_pair("stranger.example")
    (door.folder / "stranger.pem").write_text("".join(stranger))
    assert status_with(door, "mutual.example", str(door.folder / "stranger.pem")) == 403
    door.refuses("https://mutual.example/", 421, sni="secure.example")
    # A host under a wildcard certificate asks its clients too.
    door.api.apply(o.tls_secret("wild-tls", "*.wild.example"))
    names = {f"{PREFIX}auth-tls-secret": "clients"}
    rule = o.rule("under.wild.example", o.path("/", "web"))
    door.api.apply(o.ingress("wild", rule, annotations=names, tls=[("wild-tls", ["*.wild.example"])]))
    door.refuses("https://under.wild.example/", 403)
    door.until(lambda: status_with(door, "under.wild.example", str(door.folder / "client.pem")) == 200)


def test_a_session_that_began_for_another_host_proves_nothing(door: ingress.Door) -> None:
    mine, theirs = o.key_pair("friend.example"), o.key_pair("evil.example")
    door.api.apply(o.secret("friends", {"ca.crt": mine[0]}))
    door.api.apply(o.secret("evils", {"ca.crt": theirs[0]}))
    serve(door, "own.example", tls=True, auth_tls_secret="evils")
    serve(door, "closed.example", tls=True, auth_tls_secret="friends")
    (door.folder / "evil.pem").write_text("".join(theirs))
    (door.folder / "friend.pem").write_text("".join(mine))
    door.until(lambda: status_with(door, "closed.example", str(door.folder / "friend.pem")) == 200)
    context = ssl._create_unverified_context()
    context.load_cert_chain(door.folder / "evil.pem")

    def asked(host: str, session: ssl.SSLSession | None = None) -> tuple[int, ssl.SSLSession | None]:
        plain = socket.create_connection((ingress.DOOR, 443), timeout=ingress.PATIENCE)
        with context.wrap_socket(plain, server_hostname=host, session=session) as stream:
            stream.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return int(stream.recv(4096).split(b" ")[1]), stream.session

    door.until(lambda: asked("own.example")[0] == 200)
    assert asked("closed.example")[0] == 403
    assert asked("closed.example", asked("own.example")[1])[0] == 403


def test_pods_are_told_which_certificate_a_client_showed(door: ingress.Door) -> None:
    certificate, key = o.key_pair("guest.example")
    door.api.apply(o.secret("guests", {"ca.crt": certificate}))
    serve(door, "guests.example", tls=True, auth_tls_secret="guests", auth_tls_verify_client="optional")
    (door.folder / "guest.pem").write_text(certificate + key)
    forged = {"ssl-client-verify": "SUCCESS", "ssl-client-subject-dn": "CN=forged"}
    sent = door.answers("https://guests.example/", "web", headers=forged).said["headers"]
    assert (sent["ssl-client-verify"], "ssl-client-subject-dn" in sent) == (["NONE"], False)

    def told() -> list[object]:
        context = ssl._create_unverified_context()
        context.load_cert_chain(door.folder / "guest.pem")
        with secured(context, "guests.example") as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: guests.example\r\nConnection: close\r\n\r\n")
            whole = b"".join(iter(lambda: stream.recv(65536), b""))
        sent = json.loads(whole.partition(b"\r\n\r\n")[2])["headers"]
        return [sent.get(f"ssl-client-{name}") for name in ("verify", "subject-dn", "issuer-dn")]

    door.until(lambda: told() == [["SUCCESS"], ["CN=guest.example"], ["CN=guest.example"]])


def test_http2_is_spoken_where_the_client_can(door: ingress.Door) -> None:
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with secured(context, "a.example") as stream:
        assert stream.selected_alpn_protocol() == "h2"


def test_certificates_change_and_vanish_without_a_reload(door: ingress.Door) -> None:
    serve(door, "rolling.example", tls=True)
    door.api.apply(o.tls_secret("rolling-tls", "rolling.example", serial=7))
    door.until(lambda: o.serial_of(door.ask("https://rolling.example/").certificate) == 7)
    door.api.delete("Secret", "rolling-tls")
    door.until(lambda: o.serial_of(door.ask("https://rolling.example/").certificate) not in (1, 7))
    door.until(lambda: "SecretNotFound" in {each["reason"] for each in door.events("rolling")})
    assert door.metric("netplane_ingress_reloads_total") == 0


def test_the_access_log_names_ingress_service_and_pod(door: ingress.Door) -> None:
    serve(door, "logged.example")
    answer = door.answers('http://logged.example/a"b', "web", headers={"User-Agent": 'x"\\y'})

    wanted = {
        "owner": "Ingress/default/logged",
        "service": "default/web:8080",
        "pod": f"web-{answer.said['pod'].replace('.', '-')}",
        "status": 200,
        "path": '/a"b',
        "agent": 'x"\\y',
    }
    door.until(lambda: any(wanted.items() <= row.items() for row in logged(door, "logged.example")))


def test_metrics_count_by_ingress_and_service(door: ingress.Door) -> None:
    serve(door, "counted.example")
    assert [door.ask("http://counted.example/").status for _ in range(3)] == [200] * 3
    counts = 'netplane_ingress_requests_total{kind="Ingress",name="counted",namespace="default"} 3.0'
    door.until(lambda: counts in door.management("/metrics").body.decode())
    door.until(lambda: door.metric("netplane_ingress_service_endpoints", service="web") >= 3)


def test_a_dead_engine_is_back_at_once_with_everything(door: ingress.Door) -> None:
    serve(door, "alive.example", tls=True)
    os.kill(json.loads(door.management("/status").body)["engine"]["pid"], signal.SIGKILL)
    door.answers("http://alive.example/", "web")
    door.answers("https://alive.example/", "web", trust=o.key_pair("alive.example")[0])


def test_a_killed_controller_drops_nothing_and_the_next_goes_on_with_the_engine(door: ingress.Door) -> None:
    serve(door, "steady.example")
    assert door.controller is not None
    pid = json.loads(door.management("/status").body)["engine"]["pid"]
    door.controller.stop(signal.SIGKILL)
    assert door.ask("http://steady.example/").status == 200
    door.api.apply(o.ingress("meanwhile", o.rule("meanwhile.example", o.path("/", "web"))))
    door.start()
    assert json.loads(door.management("/status").body)["engine"]["pid"] == pid
    door.answers("http://meanwhile.example/", "web")
    assert door.metric("netplane_ingress_reloads_total") == 0


def test_tls_is_passed_through_and_connections_may_say_who_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("through")
    with ingress.door(folder, options=["--tls-passthrough", "--proxy-protocol"]) as door:
        door.api.apply(o.ingress_class())
        door.service("web")
        door.service("inner", ports=[{"name": "https", "port": 8443, "targetPort": echo_backends.HTTPS}])
        names = {f"{PREFIX}ssl-passthrough": "true"}
        rule = o.rule("inner.example", o.path("/", "inner", port=8443))
        door.api.apply(o.ingress("inner", rule, annotations=names))
        door.api.apply(o.ingress("web", o.rule("web.example", o.path("/", "web"))))
        assert door.until(lambda: proxied(80, "web.example"))["headers"]["x-forwarded-for"] == ["198.51.100.7"]
        assert door.until(lambda: proxied(443, "web.example"))["headers"]["x-forwarded-proto"] == ["https"]
        through = door.until(lambda: proxied(443, "inner.example"))
        assert through["secure"] is True
        assert "x-forwarded-for" not in through["headers"]
