//! Connections: admission before the body, TLS, slow and idle senders, limits, stop.

mod support;

use http::Request;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ollystack_receive::{Limits, Tls};
use std::sync::Arc;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[tokio::test]
async fn a_wrong_key_is_refused_before_the_body_is_there() {
    let server = start(Limits::default(), None).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    // A body that never comes.
    let body = StreamBody::new(futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>());
    let request = Request::post(format!("http://test{TRACES}")).header("content-type", "application/grpc").body(body);
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "16");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = start(Limits { body_timeout_ms: 20, ..Limits::default() }, None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn who_sends_too_much_gets_to_read_why() {
    let server = start(Limits { wire_bytes_max: 64 << 10, ..Limits::default() }, None).await;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head =
            "POST /v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}content-length: {}\r\n\r\n", 1 << 20).as_bytes()).await.unwrap();
        // The answer is there before the body is: a sender who goes on must neither fail nor miss it.
        stream.readable().await.unwrap();
        for _ in 0..64 {
            stream.write_all(&[b' '; 16 << 10]).await.unwrap();
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let server = start(Limits { header_timeout_ms: 20, ..Limits::default() }, None).await;
    for sent in ["", "POST /v1/l", "PRI * HTTP/2.0\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        // Closed (with or without a reset), and nothing that could be taken for a success.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{sent}");
    }
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let server = start(Limits::default(), None).await;
    let long = "x".repeat(20 << 10);
    let answer = http1(server.address, post("/v1/logs", &[("x-long", &long)], "{}")).await;
    assert_eq!(answer.status, 431);
    let answer = http2(server.address, post("/v1/logs", &[("x-long", &long)], "{}")).await;
    assert_eq!(answer.status, 431);
    assert!(server.service.exports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_above_the_limit_is_closed_and_counted() {
    let server = start(Limits { connections_max: 1, ..Limits::default() }, None).await;
    let json = [("content-type", "application/json")];
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(sender.send_request(post("/v1/logs", &json, "{}")).await.unwrap().status(), 200);

    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(server.service.events.lock().unwrap().contains(&"ConnectionRefused(InAll)".to_owned()));

    drop(sender);
    server.service.closed.notified().await;
    // The slot is given back right after the event.
    while http1_status(&server).await != Some(200) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_address_cannot_have_all_connections() {
    let limits = Limits { connections_max: 4, connections_per_address_max: 1, ..Limits::default() };
    let server = start(limits, None).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    assert!(server.service.events.lock().unwrap().contains(&"ConnectionRefused(FromAddress)".to_owned()));

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(other)).await.unwrap();
    tokio::spawn(connection);
    let request = post("/v1/logs", &[("content-type", "application/json")], "{}");
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    drop(first);
}

#[tokio::test]
async fn who_is_never_admitted_may_not_stay() {
    let server = start(Limits { header_timeout_ms: 100, ..Limits::default() }, None).await;
    for (key, stays) in [("Bearer bad", false), ("Bearer good", true)] {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = || grpc(TRACES, &[("authorization", key)], 0, &spans_bytes());
        sender.send_request(request()).await.unwrap().into_body().collect().await.unwrap();
        if stays {
            // Longer than the others had.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            sender.send_request(request()).await.unwrap().into_body().collect().await.unwrap();
        } else {
            let _ = connection.await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_spoke_in_time_is_heard_however_late_the_server_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.spawn(start(Limits { header_timeout_ms: 400, ..Limits::default() }, None)).await.unwrap();
    let opened = || server.service.events.lock().unwrap().iter().filter(|event| *event == "ConnectionOpened").count();
    for number in 1..=6 {
        let stream = TcpStream::connect(server.address).await.unwrap();
        while opened() < number {
            tokio::task::yield_now().await;
        }
        let (begin, begun) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            begin.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(500));
        });
        begun.await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(grpc(TRACES, &[], 0, &spans_bytes())).await.unwrap().into_body().collect().await.unwrap();
    }
    drop(server);
    runtime.shutdown_background();
}

async fn http1_status(server: &Running) -> Option<u16> {
    let stream = TcpStream::connect(server.address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = post("/v1/logs", &[("content-type", "application/json")], "{}");
    Some(sender.send_request(request).await.ok()?.status().as_u16())
}

#[tokio::test]
async fn stop_lets_a_request_in_progress_end() {
    let server = start(Limits::default(), None).await;
    let waiting = grpc(TRACES, &[("x-answer", "wait")], 0, &spans_bytes());
    let request = tokio::spawn(http2(server.address, waiting));
    server.service.entered.notified().await;
    server.stop.cancel();
    server.service.gate.add_permits(1);
    assert_eq!(request.await.unwrap().code(), 0);
    while !server.task.is_finished() {
        tokio::task::yield_now().await;
    }
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn stop_does_not_wait_for_ever() {
    let mut server = start(Limits { drain_timeout_ms: 20, ..Limits::default() }, None).await;
    let waiting = post("/v1/traces", &[("content-type", "application/json"), ("x-answer", "wait")], "{}");
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = tokio::spawn(async move { sender.send_request(waiting).await.is_err() });
    server.service.entered.notified().await;
    server.stop.cancel();
    (&mut server.task).await.unwrap();
    assert!(request.await.unwrap(), "cut, not answered");
}

#[tokio::test]
async fn tls_speaks_both_protocols_and_asks_for_the_client_certificate_that_was_configured() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let tls = Tls { cert_file: path("cert.pem"), key_file: path("key.pem"), client_ca_file: None };
    let mutual = Tls { client_ca_file: Some(path("cert.pem")), ..tls.clone() };
    let (open, closed) = (start(Limits::default(), Some(&tls)).await, start(Limits::default(), Some(&mutual)).await);
    for (server, with_certificate, passes) in [(&open, false, true), (&closed, true, true), (&closed, false, false)] {
        for protocol in ["h2", "http/1.1"] {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(path("cert.pem")).unwrap()).unwrap();
            let builder =
                ClientConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots);
            let mut config = match with_certificate {
                true => builder
                    .with_client_auth_cert(
                        vec![CertificateDer::from_pem_file(path("cert.pem")).unwrap()],
                        PrivateKeyDer::from_pem_file(path("key.pem")).unwrap(),
                    )
                    .unwrap(),
                false => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![protocol.into()];
            let stream = TcpStream::connect(server.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let status = async {
                let io = TokioIo::new(connector.connect(name, stream).await.ok()?);
                let request = Request::get("https://localhost/none").body(Empty::<bytes::Bytes>::new()).unwrap();
                let response = if protocol == "h2" {
                    let (mut sender, connection) =
                        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
                    tokio::spawn(connection);
                    sender.send_request(request).await.ok()?
                } else {
                    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
                    tokio::spawn(connection);
                    sender.send_request(request).await.ok()?
                };
                let status = response.status().as_u16();
                response.into_body().collect().await.ok()?;
                Some(status)
            };
            assert_eq!(status.await, passes.then_some(404), "{protocol} with certificate: {with_certificate}");
        }
    }
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up_and_counted() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let tls = Tls { cert_file: path("cert.pem"), key_file: path("key.pem"), client_ca_file: None };
    let server = start(Limits { handshake_timeout_ms: 50, ..Limits::default() }, Some(&tls)).await;
    for begun in [&[][..], &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
        server.service.closed.notified().await;
    }
    let failed = server.service.events.lock().unwrap().iter().filter(|event| *event == "HandshakeFailed").count();
    assert_eq!(failed, 2);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_is_named() {
    let missing = Tls { cert_file: "/nowhere/c.pem".into(), key_file: "/nowhere/k.pem".into(), client_ca_file: None };
    let service = Arc::new(Recorder::default());
    let error = ollystack_receive::Server::new(service, Limits::default(), Some(&missing)).err().unwrap().to_string();
    assert!(error.starts_with("tls: /nowhere/"), "{error}");
}

/// HTTP/2 by hand: a frame of stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, if kind < 2 { 1 } else { 0 }], payload].concat()
}

#[tokio::test]
async fn a_flood_of_frames_ends_its_connection_and_is_counted() {
    let server = start(Limits::default(), None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, &[])].concat();
    stream.write_all(&begin).await.unwrap();
    // Fails at the latest when the other end is closed.
    while stream.write_all(&frame(6, 0, &[7; 8]).repeat(100)).await.is_ok() {}
    server.service.closed.notified().await;
    assert!(server.service.events.lock().unwrap().contains(&"ConnectionRefused(Frames)".to_owned()));
}

#[tokio::test]
async fn answers_that_nobody_takes_count_as_in_progress_and_end_their_connection() {
    let server = start(Limits { body_timeout_ms: 200, ..Limits::default() }, None).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // No window for answers (SETTINGS_INITIAL_WINDOW_SIZE is 4).
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, &[0, 4, 0, 0, 0, 0])].concat();
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/v1/logs"),
        (":authority", "test"),
        ("content-type", "application/json"),
        ("authorization", "Bearer good"),
    ];
    let head: Vec<u8> = head.iter().flat_map(|(name, value)| literal(name, value)).collect();
    stream.write_all(&[begin, frame(1, 4, &head), frame(0, 1, b"{}")].concat()).await.unwrap();
    while server.service.allowance.used().1 == 0 || server.service.events.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.service.allowance.used().1, 1, "answered, and the answer is still here");
    server.service.closed.notified().await;
    assert_eq!(server.service.allowance.used(), (0, 0));
}
