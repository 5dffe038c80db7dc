//! Messages that become large cost no more memory than the limits say. One test in a process of its own, because it measures
//! the process.

#![allow(clippy::unwrap_used)]

mod support;

use ollystack_receive::Limits;
use std::io::Write;
use support::*;

/// What the compressed bombs unpack to: more than twice what all requests may hold.
const UNPACKED: usize = 64 << 20;

fn resident_max_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

fn zeros(mut to: impl Write, count: usize) {
    let chunk = vec![0; 1 << 20];
    for _ in 0..count >> 20 {
        to.write_all(&chunk).unwrap();
    }
}

#[tokio::test]
async fn bombs_stay_within_the_limit_and_eight_mebibytes() {
    let mut gzip_bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zeros(&mut gzip_bomb, UNPACKED);
    let gzip_bomb = gzip_bomb.finish().unwrap();
    let mut zstd_bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zeros(&mut zstd_bomb, UNPACKED);
    let zstd_bomb = zstd_bomb.finish().unwrap();
    let member = gzip(&[0; 1 << 20]);
    let members = member.repeat((2 << 20) / member.len());
    // A frame that asks for a window of 2 GiB and has one empty block.
    let window = [0x28, 0xB5, 0x2F, 0xFD, 0, 21 << 3, 1, 0, 0].to_vec();
    // A gzip within a gzip: only the outer one is opened.
    let nested = gzip(&gzip_bomb);
    // Two million empty spans in 4 MiB: about 700 MB of structures.
    let scope = length_delimited(2, &[0x12, 0].repeat(2_000_000));
    let hollow = length_delimited(1, &scope);
    let hollow_json =
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#, "{},".repeat(1_000_000));

    let limits = Limits::default();
    let allowed = limits.in_flight_bytes_max + (8 << 20);
    let server = start(limits, None).await;
    let before = resident_max_bytes();
    let protobuf = ("content-type", "application/x-protobuf");
    let json = ("content-type", "application/json");
    let table = [
        ("gzip", protobuf, gzip_bomb, (413, 8)),
        ("zstd", protobuf, zstd_bomb, (413, 8)),
        ("gzip", protobuf, members, (413, 8)),
        ("zstd", protobuf, window, (400, 3)),
        ("gzip", protobuf, nested, (400, 3)),
        ("identity", protobuf, hollow, (413, 8)),
        ("identity", json, hollow_json.into_bytes(), (413, 8)),
    ];
    for (encoding, content_type, body, (status, code)) in table {
        assert!(body.len() <= 4 << 20, "{encoding}: {} bytes would be refused for that alone", body.len());
        let request = post("/v1/traces", &[content_type, ("content-encoding", encoding)], body.clone());
        let answer = http1(server.address, request).await;
        assert_eq!(answer.status, status, "{encoding} {answer:?}");
        if content_type == protobuf {
            let flag = u8::from(encoding != "identity");
            let answer = http2(server.address, grpc(TRACES, &[("grpc-encoding", encoding)], flag, &body)).await;
            assert_eq!(answer.code(), code, "{encoding} {answer:?}");
        }
    }
    let grown = resident_max_bytes() - before;
    assert!(grown <= allowed, "{grown} bytes, {allowed} allowed");
    assert!(server.service.exports.lock().unwrap().is_empty());
}

fn length_delimited(field: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![field << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(content);
    message
}
