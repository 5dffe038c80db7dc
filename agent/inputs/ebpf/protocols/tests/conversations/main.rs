//! Conversations recorded from real servers and clients, replayed as the kernel would hand them over.
//!
//! One folder a protocol, one file a script of requests: `C` or `S` and the bytes of one call, escaped as in Rust; `--` where
//! another connection begins; `=` and what is expected, as [`told`] puts it; `#` and what was recorded; `~` says that
//! calls are datagrams. Replayed whole a
//! file gives exactly what it expects, and so it does however its calls are cut. Heads cut short and connections
//! joined midway may give less, never more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests; clippy knows only functions marked as one")]

use ollystack_ebpf::http2::{HEAD_BYTES, Walk};
use ollystack_ebpf::sniff::{self, BY_SERVER, PREFIX_BYTES, Seen, sniff};
use ollystack_protocols::{Chunk, Exchange, Found, Moment, Side, parser};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::path::{Path, PathBuf};

/// Folders, and the protocols in them.
const PROTOCOLS: &[(&str, u8)] = &[
    ("http1", sniff::HTTP1),
    ("http2", sniff::HTTP2),
    ("postgresql", sniff::POSTGRESQL),
    ("mysql", sniff::MYSQL),
    ("redis", sniff::REDIS),
    ("kafka", sniff::KAFKA),
    ("mongodb", sniff::MONGODB),
    ("nats", sniff::NATS),
    ("amqp", sniff::AMQP),
    ("dns", sniff::DNS),
];

/// What one call moved, and by whom.
type Call = (Side, Vec<u8>);

struct Conversation {
    path: PathBuf,
    protocol: u8,
    connections: Vec<Vec<Call>>,
    expected: Vec<String>,
    /// Each call is a message, never cut.
    are_datagrams: bool,
}

fn conversations() -> Vec<Conversation> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let (_, protocol) = PROTOCOLS.iter().find(|(folder, _)| *folder == name).unwrap_or_else(|| panic!("{name}"));
        for file in std::fs::read_dir(&entry).unwrap() {
            found.push(conversation(file.unwrap().path(), *protocol));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn conversation(path: PathBuf, protocol: u8) -> Conversation {
    let text = std::fs::read_to_string(&path).unwrap();
    let mut found =
        Conversation { path, protocol, connections: vec![Vec::new()], expected: Vec::new(), are_datagrams: false };
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let calls = found.connections.last_mut().unwrap();
        match kind {
            "C" => calls.push((Side::Client, bytes(rest))),
            "S" => calls.push((Side::Server, bytes(rest))),
            "--" => found.connections.push(Vec::new()),
            "=" => found.expected.push(rest.to_owned()),
            "~" => found.are_datagrams = true,
            "#" | "" => {}
            _ => panic!("{}: {line}", found.path.display()),
        }
    }
    found
}

/// Bytes of an escaped text.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                same => same,
            },
            byte => byte,
        });
    }
    bytes
}

/// How the kernel hands calls over.
#[derive(Clone, Copy)]
struct Copying {
    /// Bytes of each call that are copied.
    bytes_max: usize,
    /// Calls at the beginning of each connection that were not seen.
    calls_missed: usize,
}

const WHOLE: Copying = Copying { bytes_max: usize::MAX, calls_missed: 0 };

fn play(protocol: u8, connections: &[Vec<Call>], copying: Copying) -> Vec<String> {
    let mut found = Found::default();
    let mut time_ns = 0;
    for calls in connections {
        let mut parser = parser(protocol).unwrap();
        let (mut positions, mut last) = ([0_u32; 2], None);
        for (number, (from, bytes)) in calls.iter().enumerate() {
            time_ns += 1;
            let (from, length) = (*from, bytes.len() as u32);
            let (position, bytes) = (positions[from as usize], &bytes[..bytes.len().min(copying.bytes_max)]);
            positions[from as usize] += length;
            let (at, is_turn) = (Moment { time_ns, thread: 1 }, last != Some(from));
            if number >= copying.calls_missed {
                last = Some(from);
                parser.take(&Chunk { from, at, position, length, bytes, is_turn }, &mut found);
            }
        }
        parser.end(&mut found);
    }
    told(&found)
}

/// Each exchange: its name, its error, and whether that is the client's fault. Then what did not become one.
fn told(found: &Found) -> Vec<String> {
    let tell = |exchange: &Exchange| {
        assert!(exchange.asked.time_ns <= exchange.answered.time_ns, "{exchange:?}");
        assert!(exchange.name.len() <= 200, "{exchange:?}");
        match &exchange.error {
            None => exchange.name.clone(),
            Some(error) if exchange.is_fault_of_client => format!("{} {error} (client)", exchange.name),
            Some(error) => format!("{} {error}", exchange.name),
        }
    };
    let mut told: Vec<String> = found.exchanges.iter().map(tell).collect();
    let counts = [("unanswered", found.unanswered), ("unpaired", found.unpaired), ("lost", found.lost)];
    told.extend(counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}: {count}")));
    told
}

fn exchanges(told: &[String]) -> usize {
    told.iter().filter(|line| !line.contains(": ")).count()
}

#[test]
fn whole_conversations_give_exactly_their_exchanges() {
    let mut broken = Vec::new();
    for Conversation { path, protocol, connections, expected, .. } in conversations() {
        let told = play(protocol, &connections, WHOLE);
        if told != expected {
            broken.push(format!("{}: {told:#?} instead of {expected:#?}", path.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn however_calls_are_cut_the_exchanges_are_the_same() {
    let mut runner = TestRunner::deterministic();
    for Conversation { path, protocol, connections, expected, .. } in
        conversations().into_iter().filter(|it| !it.are_datagrams)
    {
        for _ in 0..32 {
            let cuts = prop::collection::vec(1_usize..200, 1..60).new_tree(&mut runner).unwrap().current();
            let mut cuts = cuts.iter().cycle();
            let mut cut = |calls: &Vec<Call>| {
                let mut parts = Vec::new();
                for (from, bytes) in calls {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let (part, more) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                        parts.push((*from, part.to_vec()));
                        rest = more;
                    }
                }
                parts
            };
            let parts: Vec<_> = connections.iter().map(&mut cut).collect();
            assert_eq!(play(protocol, &parts, WHOLE), expected, "{}", path.display());
        }
    }
}

#[test]
fn heads_that_are_cut_short_invent_nothing() {
    for Conversation { path, protocol, connections, expected, .. } in conversations() {
        for bytes_max in [0, 16, 64, 256, 1_024] {
            let told = play(protocol, &connections, Copying { bytes_max, ..WHOLE });
            assert!(exchanges(&told) <= exchanges(&expected), "{} at {bytes_max}: {told:#?}", path.display());
        }
    }
}

#[test]
fn connections_that_are_joined_midway_invent_nothing() {
    for Conversation { path, protocol, connections, expected, .. } in conversations() {
        let longest = connections.iter().map(Vec::len).max().unwrap();
        for calls_missed in 1..=longest {
            let told = play(protocol, &connections, Copying { calls_missed, ..WHOLE });
            assert!(exchanges(&told) <= exchanges(&expected), "{} from {calls_missed}: {told:#?}", path.display());
        }
    }
}

/// Where bodies are not copied, nothing is missed: what `ollystack_ebpf::http2` wants of a call is enough.
#[test]
fn http2_needs_no_bodies() {
    let (mut copied, mut moved) = (0, 0);
    for Conversation { path, protocol, connections, expected, .. } in conversations() {
        if protocol != sniff::HTTP2 {
            continue;
        }
        let mut found = Found::default();
        for calls in &connections {
            let mut parser = parser(protocol).unwrap();
            let (mut positions, mut walks, mut time_ns) = ([0_u32; 2], [Walk::default(); 2], 0);
            for (from, call) in calls {
                let (position, walk) = (&mut positions[*from as usize], &mut walks[*from as usize]);
                time_ns += 1;
                let (mut offset, mut record) = (0, (0, Vec::new()));
                let mut put = |(begin, bytes): (usize, Vec<u8>), end: usize| {
                    let (at, length) = (Moment { time_ns, thread: 1 }, (end - begin) as u32);
                    let (from, position) = (*from, position.wrapping_add(begin as u32));
                    if !bytes.is_empty() {
                        parser.take(&Chunk { from, at, position, length, bytes: &bytes, is_turn: false }, &mut found);
                    }
                    copied += bytes.len();
                };
                while offset < call.len() {
                    let is_head = walk.ahead() == 0;
                    let ahead = if is_head { walk.head_bytes() } else { walk.ahead() } as usize;
                    let bytes = ahead.min(call.len() - offset);
                    if !is_head && !walk.is_wanted() {
                        *walk = walk.behind(bytes as u32);
                        offset += bytes;
                        continue;
                    }
                    if record.0 + record.1.len() < offset {
                        // Behind what was passed over another record begins, which stands for all up to the next.
                        put(std::mem::replace(&mut record, (offset, Vec::new())), offset);
                    }
                    record.1.extend_from_slice(&call[offset..offset + bytes]);
                    let mut head = [0; HEAD_BYTES];
                    head[..bytes.min(HEAD_BYTES)].copy_from_slice(&call[offset..offset + bytes.min(HEAD_BYTES)]);
                    *walk = if is_head { walk.behind_head(&head, bytes as u32) } else { walk.behind(bytes as u32) };
                    offset += bytes;
                }
                put(record, offset);
                *position = position.wrapping_add(call.len() as u32);
                moved += call.len();
            }
            parser.end(&mut found);
        }
        assert_eq!(told(&found), expected, "{}", path.display());
    }
    assert!(copied < moved / 2, "{copied} of {moved}");
}

#[test]
fn connections_are_recognised_as_what_they_are_whichever_call_is_seen_first() {
    for Conversation { path, protocol, connections, .. } in conversations() {
        for calls in &connections {
            let recognised = calls.iter().filter_map(|(from, bytes)| {
                let mut prefix = [0; PREFIX_BYTES];
                let length = bytes.len().min(PREFIX_BYTES);
                prefix[..length].copy_from_slice(&bytes[..length]);
                let found = sniff(&Seen { bytes: prefix, length: bytes.len() as u32 });
                let by = if found & BY_SERVER == 0 { Side::Client } else { Side::Server };
                (found != sniff::UNKNOWN).then_some(((found & !BY_SERVER, by), *from, bytes))
            });
            let recognised: Vec<_> = recognised.collect();
            assert!(!recognised.is_empty(), "{} is not recognised", path.display());
            for (found, from, bytes) in recognised {
                // One that is upgraded goes on as another; what Redis pushes looks like a command.
                let expected = match (protocol, found.0) {
                    (sniff::HTTP1, sniff::HTTP2) => (sniff::HTTP2, from),
                    (sniff::REDIS, sniff::REDIS) if bytes.starts_with(b"*") => (sniff::REDIS, Side::Client),
                    _ => (protocol, from),
                };
                assert_eq!(found, expected, "{}: {}", path.display(), bytes.escape_ascii());
            }
        }
    }
}
