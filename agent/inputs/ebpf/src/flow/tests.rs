//! What becomes of the records of connections: spans, and the account of what did not become one.

use super::*;
use ollystack_ebpf::flow::{DATA, RECEIVED, SERVER};
use ollystack_ebpf::{bytes_of, sniff};
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::{Ledger, value};
use ollystack_schema::names::semconv;

const ASK: &str = "GET /orders/17/lines HTTP/1.1\r\n\r\n";
const FAILED: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

/// A server's side of connections, as the kernel writes it.
struct Kernel {
    flows: Flows,
    processes: Processes,
    intake: Intake,
    receiver: tokio::sync::mpsc::Receiver<ollystack_record::Received>,
    stats: Stats,
}

impl Kernel {
    fn new(max: usize) -> Kernel {
        let (intake, receiver) = Intake::new(64, 1_000, Arc::new(Ledger::default()));
        let (flows, processes) = (Flows::new(max), Processes::new(Arc::default(), 16));
        Kernel { flows, processes, intake, receiver, stats: Stats::default() }
    }

    fn take(&mut self, socket: u64, sequence: u32, direction: u8, position: u32, text: &str, heads: bool) {
        let meta = Meta {
            time_ns: u64::from(sequence) * 1_000,
            socket,
            sequence,
            length: text.len() as u32,
            position,
            captured: text.len() as u16,
            kind: if text.is_empty() { CLOSE } else { DATA },
            direction,
            protocol: sniff::HTTP1,
            role: SERVER,
            flags: TURN,
            ..Meta::default()
        };
        let record = [bytes_of(&meta), text.as_bytes()].concat();
        self.flows.take(&record, heads, 0, &mut self.processes);
    }

    fn ask(&mut self, socket: u64, sequence: u32, position: u32) {
        self.take(socket, sequence, RECEIVED, position, ASK, true);
    }

    fn answer(&mut self, socket: u64, sequence: u32, position: u32) {
        self.take(socket, sequence, SENT, position, FAILED, true);
    }

    fn settle(&mut self, now_ns: u64) {
        self.flows.settle(now_ns, 0, &mut self.processes, &self.intake, &self.stats);
    }

    /// Spans since the last time.
    fn spans(&mut self) -> Vec<Span> {
        self.flows.hand_in(&self.intake, &self.stats);
        let mut spans = Vec::new();
        while let Ok(received) = self.receiver.try_recv() {
            let Records::Traces(scopes) = received.batch.records.into_otlp() else { unreachable!() };
            spans.extend(scopes.into_iter().flat_map(|scope| scope.spans));
        }
        spans
    }

    /// Spans in all, requests without an answer, lost and beyond the limit.
    fn account(&mut self) -> (u64, u64, u64, u64) {
        self.settle(0);
        let traces = &self.intake.ledger().read().signals[Signal::Traces as usize];
        let dropped = |reason: DropReason| traces.dropped[reason as usize].1;
        let stats = self.stats.read();
        (stats.spans, stats.unanswered, dropped(DropReason::KernelRingFull), dropped(DropReason::TraceLimit))
    }
}

#[test]
fn when_memory_presses_a_request_is_still_a_span_with_its_status_though_its_head_is_not_looked_at() {
    let path_and_status = |heads: bool| {
        let mut kernel = Kernel::new(16);
        let ask = "GET /a-path-longer-than-a-prefix/17/lines HTTP/1.1\r\n\r\n";
        kernel.take(7, 1, RECEIVED, 0, ask, heads);
        kernel.take(7, 2, SENT, 0, FAILED, heads);
        let span = kernel.spans().remove(0);
        kernel.account();
        let path = value::string_attribute(&span.attributes, semconv::URL_PATH).is_some();
        let status = value::int_attribute(&span.attributes, semconv::HTTP_RESPONSE_STATUS_CODE);
        (path, status, kernel.stats.read().heads_cut)
    };
    assert_eq!(path_and_status(true), (true, Some(503), 0));
    assert_eq!(path_and_status(false), (false, Some(503), 2));
}

#[test]
fn records_that_overtook_one_another_are_put_in_order_and_a_lost_one_is_counted() {
    let mut kernel = Kernel::new(16);
    kernel.ask(7, 1, 0);
    kernel.ask(7, 3, ASK.len() as u32);
    kernel.answer(7, 2, 0);
    kernel.answer(7, 4, FAILED.len() as u32);
    assert_eq!(kernel.spans().len(), 2);
    kernel.ask(7, 5, 2 * ASK.len() as u32);
    // The answer to it, number 6, is lost.
    kernel.ask(7, 7, 3 * ASK.len() as u32);
    kernel.answer(7, 8, 3 * FAILED.len() as u32);
    assert_eq!(kernel.spans().len(), 1);
    assert_eq!(kernel.account(), (3, 0, 1, 0));
}

#[test]
fn connections_that_are_given_up_are_counted_by_process_and_cost_no_room() {
    let mut kernel = Kernel::new(16);
    for (socket, flags) in [(7, 0), (8, MIDWAY), (9, MIDWAY)] {
        let meta = Meta { kind: GIVEN_UP, socket, process: 3, flags, protocol: 0xFF, ..Meta::default() };
        kernel.flows.take(bytes_of(&meta), true, 0, &mut kernel.processes);
    }
    kernel.account();
    let (stats, seen) = (kernel.stats.read(), kernel.processes.seen());
    assert_eq!((stats.unrecognised, stats.midway, kernel.flows.connections.len()), (1, 2, 0));
    assert_eq!((seen[0].pid, seen[0].unrecognised, seen[0].midway), (3, 1, 2));
}

#[test]
fn requests_end_unanswered_with_their_connection_or_after_long_silence() {
    let mut kernel = Kernel::new(16);
    kernel.ask(7, 1, 0);
    kernel.take(7, 2, SENT, 0, "", true);
    assert_eq!((kernel.account().1, kernel.flows.connections.len()), (1, 0));
    kernel.ask(8, 1, 0);
    kernel.settle(SILENCE_NS + 999);
    assert_eq!(kernel.flows.connections.len(), 1);
    kernel.settle(SILENCE_NS + 1_000);
    assert_eq!((kernel.account().1, kernel.flows.connections.len()), (2, 0));
}

#[test]
fn a_socket_s_memory_given_to_another_connection_starts_anew() {
    let mut kernel = Kernel::new(16);
    for sequence in 1..=5 {
        kernel.ask(7, sequence, (sequence - 1) * ASK.len() as u32);
    }
    kernel.ask(7, 1, 0);
    kernel.answer(7, 2, 0);
    assert_eq!(kernel.spans().len(), 1);
    assert_eq!(kernel.account().1, 5);
}

#[test]
fn a_request_whose_first_byte_was_read_by_itself_is_whole_and_served_by_who_read_the_rest() {
    let mut kernel = Kernel::new(16);
    kernel.ask(7, 1, 0);
    kernel.answer(7, 2, 0);
    let next = ASK.len() as u32;
    kernel.take(7, 3, RECEIVED, next, &ASK[..1], true);
    kernel.take(7, 4, RECEIVED, next + 1, &ASK[1..], true);
    kernel.answer(7, 5, FAILED.len() as u32);
    let spans = kernel.spans();
    assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["GET /orders/{id}/lines"; 2]);
    assert_eq!(spans[1].start_time_unix_nano, 4_000);
    // What follows is not behind it.
    kernel.take(7, 6, RECEIVED, 2 * next, &ASK[..1], true);
    kernel.take(7, 7, RECEIVED, 2 * next + 9, ASK, true);
    kernel.answer(7, 8, 2 * FAILED.len() as u32);
    assert_eq!(kernel.spans().len(), 1);
}

#[test]
fn who_reads_a_request_in_two_calls_makes_the_same_of_its_numbers_as_who_reads_it_in_one() {
    let trace = |calls: &[(&str, u8, u32)]| {
        let (mut kernel, mut position) = (Kernel::new(16), 0);
        for (sequence, (text, flags, tcp_sequence)) in (1..).zip(calls) {
            let meta = Meta {
                time_ns: sequence,
                socket: 7,
                sequence: sequence as u32,
                length: text.len() as u32,
                position,
                captured: text.len() as u16,
                kind: DATA,
                direction: RECEIVED,
                protocol: sniff::HTTP1,
                role: SERVER,
                flags: *flags,
                carry: *b"GET ",
                tcp_sequence: *tcp_sequence,
                tcp_acknowledgment: u32::from(*tcp_sequence != 0) * 9,
                ..Meta::default()
            };
            position += text.len() as u32;
            kernel.flows.take(&[bytes_of(&meta), text.as_bytes()].concat(), true, 0, &mut kernel.processes);
        }
        kernel.answer(7, calls.len() as u32 + 1, 0);
        kernel.spans().into_iter().map(|span| (span.trace_id, span.links.len())).collect::<Vec<_>>()
    };
    let whole = trace(&[(ASK, TURN, 700)]);
    assert_eq!(whole.iter().map(|(_, links)| *links).collect::<Vec<_>>(), [1]);
    assert_eq!(trace(&[(&ASK[..1], TURN, 700), (&ASK[1..], 0, 0)]), whole, "a byte, then the rest");
    assert_eq!(trace(&[(&ASK[4..], CARRY, 704)]), whole, "four bytes of which only the rest tells");
}

#[test]
fn a_line_that_is_written_twice_is_its_request_s_though_the_clock_is_read_anew_between() {
    let (mut kernel, lines) = (Kernel::new(16), Arc::new(Lines::default()));
    kernel.flows = kernel.flows.telling(Arc::clone(&lines));
    for number in 0..8 {
        kernel.ask(7, 2 * number + 1, number * ASK.len() as u32);
        kernel.answer(7, 2 * number + 2, number * FAILED.len() as u32);
    }
    // It has no event loop.
    assert!(kernel.flows.parents.loggers(1, |_| false).eq([(0, true)]));
    kernel.ask(7, 17, 8 * ASK.len() as u32);
    let text = "INFO serving /orders/17/lines";
    for (time_ns, offset_ns) in [(17_100, 1_000_000), (17_200, 1_000_020)] {
        let length = text.len() + 1;
        let meta = Meta { time_ns, length: length as u32, captured: length as u16, kind: LINE, ..Meta::default() };
        let record = [bytes_of(&meta), text.as_bytes(), b"\n"].concat();
        kernel.flows.take(&record, true, offset_ns, &mut kernel.processes);
    }
    kernel.answer(7, 18, 8 * FAILED.len() as u32);
    let span = kernel.spans().pop().unwrap();
    let body = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let under = lines.of(&LogRecord { body, ..LogRecord::default() });
    assert_eq!(under.map(|under| (under.trace.to_vec(), under.span.to_vec())), Some((span.trace_id, span.span_id)));
}

#[test]
fn connections_do_not_grow_without_limit_and_every_request_is_somewhere() {
    let mut kernel = Kernel::new(16);
    for socket in 0..100 {
        kernel.ask(socket, 1, 0);
    }
    assert_eq!((kernel.flows.connections.len(), kernel.account()), (16, (0, 0, 0, 84)));
}

#[test]
fn what_a_connection_s_end_tells_is_told_of_that_connection() {
    let mut kernel = Kernel::new(16);
    let delivery = b"MSG rates.get 1 _INBOX.z.9 2\r\nhi\r\n";
    let meta = |kind, sequence| Meta {
        socket: 7,
        process: u32::MAX - 1,
        sequence,
        length: delivery.len() as u32,
        captured: delivery.len() as u16,
        kind,
        direction: RECEIVED,
        protocol: sniff::NATS,
        role: CLIENT,
        flags: TURN,
        ends: ollystack_ebpf::Ends { remote_port: 4_222, family: ollystack_ebpf::FAMILY_V4, ..Default::default() },
        ..Meta::default()
    };
    // Nobody has answered it when the connection closes: only then it is told.
    for (kind, sequence) in [(DATA, 1), (CLOSE, 2)] {
        let record = [bytes_of(&meta(kind, sequence)), delivery].concat();
        kernel.flows.take(&record, true, 0, &mut kernel.processes);
    }
    kernel.ask(8, 1, 0);
    kernel.answer(8, 2, 0);
    let spans = kernel.spans();
    let port = |name: &str| {
        let span = spans.iter().find(|span| span.name == name)?;
        value::int_attribute(&span.attributes, semconv::SERVER_PORT)
    };
    assert_eq!((spans.len(), port("receive rates.get")), (2, Some(4_222)));
}
