//! Every answer of the face is the one that the OTLP specification asks for.

mod support;

use ollystack_receive::{Limits, Message, Transport};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use support::*;
use tonic::{Code, Status};
use tonic_types::StatusExt;

#[tokio::test]
async fn a_message_arrives_whatever_way_it_takes() {
    let server = start(Limits::default(), None).await;
    let plain = spans_bytes();
    let zipped = gzip(&plain);
    let squeezed = zstd::encode_all(plain.as_slice(), 3).unwrap();
    let json = serde_json::to_vec(&spans(2)).unwrap();
    let protobuf = ("content-type", "application/x-protobuf");
    let requests = [
        (Transport::Grpc, grpc(TRACES, &[], 0, &plain)),
        (Transport::Grpc, grpc(TRACES, &[("content-type", "application/grpc+proto")], 0, &plain)),
        (Transport::Grpc, grpc(TRACES, &[("grpc-encoding", "gzip")], 1, &zipped)),
        (Transport::Grpc, grpc(TRACES, &[("grpc-encoding", "zstd")], 1, &squeezed)),
        (Transport::Grpc, grpc(TRACES, &[("grpc-encoding", "gzip")], 0, &plain)),
        (Transport::HttpProtobuf, post("/v1/traces", &[protobuf], plain.clone())),
        (Transport::HttpProtobuf, post("/v1/traces", &[protobuf, ("content-encoding", "gzip")], zipped.clone())),
        (Transport::HttpProtobuf, post("/v1/traces", &[protobuf, ("content-encoding", "zstd")], squeezed)),
        (Transport::HttpJson, post("/v1/traces", &[("content-type", "application/json; charset=utf-8")], json.clone())),
        (
            Transport::HttpJson,
            post("/v1/traces", &[("content-type", "application/json"), ("content-encoding", "gzip")], gzip(&json)),
        ),
    ];
    for (transport, request) in requests {
        let shown = format!("{:?}", request.headers());
        let answer = match transport {
            Transport::Grpc => http2(server.address, request).await,
            _ => http1(server.address, request).await,
        };
        assert_eq!(answer.status, 200, "{shown} {answer:?}");
        assert_eq!(answer.header("x-ollystack-left"), "7", "{shown}");
        match transport {
            Transport::Grpc => assert_eq!((answer.code(), answer.body.as_ref()), (0, &[0, 0, 0, 0, 0][..]), "{shown}"),
            Transport::HttpProtobuf => assert_eq!(answer.body.as_ref(), b"", "{shown}"),
            Transport::HttpJson => assert_eq!(answer.body.as_ref(), b"{}", "{shown}"),
        }
        let export = server.service.exports.lock().unwrap().pop().unwrap();
        assert_eq!((export.transport, export.message), (transport, Message::Traces(spans(2))), "{shown}");
    }
}

#[tokio::test]
async fn a_partial_success_says_how_many_and_why() {
    let server = start(Limits::default(), None).await;
    let partial = ("x-answer", "partial");
    let answer = http2(server.address, grpc(TRACES, &[partial], 0, &spans_bytes())).await;
    let message = ExportTraceServiceResponse::decode(&answer.body[5..]).unwrap().partial_success.unwrap();
    assert_eq!((answer.code(), message.rejected_spans, message.error_message.as_str()), (0, 3, "three of them"));

    let json = [("content-type", "application/json"), partial];
    let answer = http1(server.address, post("/v1/metrics", &json, "{}")).await;
    let expected = r#"{"partialSuccess":{"errorMessage":"three of them","rejectedDataPoints":"3"}}"#;
    assert_eq!((answer.status, answer.body.as_ref()), (200, expected.as_bytes()));
}

#[tokio::test]
async fn each_refusal_over_grpc_has_its_code_and_only_the_retryable_carry_retry_info() {
    let limits =
        Limits { wire_bytes_max: 4096, decoded_bytes_max: 8192, in_flight_bytes_max: 1 << 20, ..Limits::default() };
    let server = start(limits, None).await;
    let plain = spans_bytes();
    let large = gzip(&vec![0; 8193]);
    let table = [
        (grpc(TRACES, &[("authorization", "Bearer bad")], 0, &plain), Code::Unauthenticated, false),
        (grpc(TRACES, &[("authorization", "Bearer weak")], 0, &plain), Code::PermissionDenied, false),
        (grpc(TRACES, &[("x-answer", "quota")], 0, &plain), Code::ResourceExhausted, true),
        (grpc(TRACES, &[("x-answer", "outage")], 0, &plain), Code::Unavailable, true),
        (grpc(TRACES, &[], 0, &[0; 4097]), Code::ResourceExhausted, false),
        (grpc(TRACES, &[("grpc-encoding", "gzip")], 1, &large), Code::ResourceExhausted, false),
        (grpc("/other.Service/Method", &[], 0, &plain), Code::Unimplemented, false),
        (grpc(TRACES, &[("grpc-encoding", "br")], 1, &plain), Code::Unimplemented, false),
        (grpc(TRACES, &[], 1, &plain), Code::Internal, false),
        (grpc(TRACES, &[("grpc-encoding", "gzip")], 1, &plain), Code::InvalidArgument, false),
        (grpc(TRACES, &[("grpc-encoding", "zstd")], 1, &plain), Code::InvalidArgument, false),
        (grpc(TRACES, &[], 0, b"junk"), Code::InvalidArgument, false),
    ];
    for (request, code, retry) in table {
        let answer = http2(server.address, request).await;
        assert_eq!((answer.status, Code::from_i32(answer.code())), (200, code), "{answer:?}");
        let status = Status::from_header_map(&answer.headers).unwrap();
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay.map(|delay| delay.as_millis()), retry.then_some(1_500), "{answer:?}");
        assert!(!status.message().is_empty());
    }
}

#[tokio::test]
async fn each_refusal_over_http_has_its_status_and_only_the_retryable_carry_retry_after() {
    let limits =
        Limits { wire_bytes_max: 4096, decoded_bytes_max: 8192, in_flight_bytes_max: 1 << 20, ..Limits::default() };
    let server = start(limits, None).await;
    let protobuf = ("content-type", "application/x-protobuf");
    let json = ("content-type", "application/json");
    let gzipped = ("content-encoding", "gzip");
    let mut get = post("/v1/logs", &[json], "");
    *get.method_mut() = http::Method::GET;
    let table = [
        (post("/v1/logs", &[json, ("authorization", "Bearer bad")], "{}"), 401, 16),
        (post("/v1/logs", &[protobuf, ("authorization", "Bearer weak")], ""), 403, 7),
        (post("/v1/logs", &[json], "{"), 400, 3),
        (post("/v1/logs", &[protobuf], "junk"), 400, 3),
        (post("/v1/logs", &[protobuf, gzipped], "junk"), 400, 3),
        (post("/v1/logs", &[protobuf], vec![0; 4097]), 413, 8),
        (post("/v1/logs", &[protobuf, gzipped], gzip(&vec![0; 8193])), 413, 8),
        (post("/v1/nothing", &[protobuf], ""), 404, 12),
        (get, 405, 12),
        (post("/v1/logs", &[("content-type", "text/plain")], "{}"), 415, 12),
        (post("/v1/logs", &[json, ("content-encoding", "br")], "{}"), 415, 12),
        (post("/v1/logs", &[json, ("x-answer", "quota")], "{}"), 429, 8),
        (post("/v1/logs", &[protobuf, ("x-answer", "outage")], ""), 503, 14),
    ];
    for (request, status, code) in table {
        let answer = http1(server.address, request).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let found = match answer.header("content-type") {
            "application/json" => {
                let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                assert!(!body["message"].as_str().unwrap().is_empty());
                body["code"].as_i64().unwrap() as i32
            }
            "application/x-protobuf" => {
                let body = tonic_types::Status::decode(answer.body.clone()).unwrap();
                assert!(!body.message.is_empty());
                body.code
            }
            other => panic!("{other}"),
        };
        assert_eq!(found, code, "{answer:?}");
        // 1,500 ms in whole seconds, never too early.
        let retry_after = if [429, 503].contains(&status) { "2" } else { "" };
        assert_eq!(answer.header("retry-after"), retry_after, "{answer:?}");
    }
}

#[tokio::test]
async fn a_caller_with_too_much_in_progress_is_told_to_come_back() {
    let server = start(Limits::default(), None).await;
    let json = [("content-type", "application/json"), ("x-answer", "wait")];
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(http1(server.address, post("/v1/logs", &json, "{}")))).collect();
    while server.service.allowance.used().1 < waiting.len() {
        tokio::task::yield_now().await;
    }
    let answer = http1(server.address, post("/v1/logs", &json[..1], "{}")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "1"));
    let answer = http2(server.address, grpc(TRACES, &[], 0, &spans_bytes())).await;
    let status = Status::from_header_map(&answer.headers).unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    server.service.gate.add_permits(3);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(server.service.allowance.used(), (0, 0));
    let refused = "ResourceExhausted caller_requests_in_flight".to_owned();
    assert_eq!(server.service.events.lock().unwrap().iter().filter(|event| **event == refused).count(), 2);
}

#[tokio::test]
async fn values_nested_too_deeply_are_left_out_and_the_sender_is_warned() {
    let server = start(Limits::default(), None).await;
    let (begin, end) = (r#"{"arrayValue":{"values":["#, "]}}");
    let body = format!("{}{{}}{}", begin.repeat(100), end.repeat(100));
    let json = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{body}}},{{}}]}}]}}]}}"#);
    let answer = http1(server.address, post("/v1/logs", &[("content-type", "application/json")], json)).await;
    let expected = r#"{"partialSuccess":{"errorMessage":"1 lists or maps within more than 24 others were left out","rejectedLogRecords":"0"}}"#;
    assert_eq!((answer.status, std::str::from_utf8(&answer.body).unwrap()), (200, expected));
    let exports = server.service.exports.lock().unwrap();
    let Message::Logs(request) = &exports[0].message else { panic!("not logs") };
    assert_eq!(request.resource_logs[0].scope_logs[0].log_records.len(), 2);
}

#[tokio::test]
async fn what_was_refused_is_observed_with_its_reason() {
    let server = start(Limits::default(), None).await;
    http1(server.address, post("/v1/logs", &[("content-type", "application/json")], "{")).await;
    http1(server.address, post("/nowhere", &[], "")).await;
    let events = server.service.events.lock().unwrap();
    assert!(events.contains(&"InvalidArgument invalid".to_owned()), "{events:?}");
    assert!(events.contains(&"Unimplemented unsupported".to_owned()), "{events:?}");
}

#[tokio::test]
async fn mutated_requests_get_an_answer_and_never_a_crash() {
    let server = start(Limits::default(), None).await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let json = serde_json::to_vec(&spans(2)).unwrap();
    let bodies = [
        ("application/x-protobuf", "identity", spans_bytes()),
        ("application/x-protobuf", "gzip", gzip(&spans_bytes())),
        ("application/x-protobuf", "zstd", zstd::encode_all(spans_bytes().as_slice(), 3).unwrap()),
        ("application/json", "identity", json),
    ];
    // xorshift with a fixed seed: the same mutations each time.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut taken = 0;
    for round in 0..2_000 {
        let (content_type, encoding, original) = &bodies[round % bodies.len()];
        let mut body = original.clone();
        for _ in 0..=random(3) {
            let at = random(body.len());
            match random(3) {
                0 => body[at] ^= 1 << random(8),
                1 => body.truncate(at.max(1)),
                _ => body.insert(at, random(256) as u8),
            }
        }
        let request = post("/v1/traces", &[("content-type", content_type), ("content-encoding", encoding)], body);
        let status = sender.send_request(request).await.unwrap().status().as_u16();
        assert!([200, 400].contains(&status), "{status}");
        taken += usize::from(status == 200);
    }
    assert_eq!(server.service.exports.lock().unwrap().len(), taken);
}
