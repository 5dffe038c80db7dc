//! Streams to exchanges: which answer belongs to which request, and when it decides.
//!
//! In: what the frames of both sides say of streams. An exchange of HTTP is told when the answer's head has come, one of gRPC
//! when the stream ends, as its status comes last; where fields are unknown, it is the end that tells which of both it was.
//! Invariant: at most [`WAITING_MAX`] streams with [`TEXT_BYTES_MAX`] bytes of text are held; past it the oldest gives way and
//! is counted.

use super::grpc;
use super::heads::Heads;
use crate::http::{self, Response, UNKNOWN, authority};
use crate::{Exchange, Found, Kind, Moment, Side, WAITING_MAX};
use ollystack_record::attribute::{int, string};
use ollystack_schema::names::semconv;
use std::borrow::Cow;

/// Bytes of the texts of requests that wait.
const TEXT_BYTES_MAX: usize = 10 * 1024;

/// Error codes of HTTP/2 (RFC 9113, section 7).
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];
const REFUSED_STREAM: u32 = 7;

/// How a stream went.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By the server's last frame.
    Whole(Moment),
    /// Broken off.
    Reset(Moment, Side, u32),
}

/// A stream.
#[derive(Debug)]
struct Call {
    stream: u32,
    asked: Option<(Moment, Heads)>,
    /// The answer's head, completed by its trailers.
    answer: Option<(Moment, Heads)>,
    end: Option<End>,
    /// It is an exchange already; only its end is awaited.
    is_told: bool,
}

/// Those of a connection.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// In the order in which they were first seen.
    calls: Vec<Call>,
    /// The oldest and the newest that was asked: a client's numbers ascend.
    oldest: Option<u32>,
    newest: u32,
}

impl Calls {
    /// A request's head, or its trailers.
    pub(super) fn ask(&mut self, stream: u32, at: Moment, heads: Heads, found: &mut Found) {
        if stream <= self.newest || stream.is_multiple_of(2) {
            return;
        }
        self.oldest.get_or_insert(stream);
        self.newest = stream;
        found.asked.push((at, heads.context.as_deref().copied()));
        // An answer whose request did not come before this one was missed; one older than its request is another's.
        let is_older = |call: &Call| call.answer.as_ref().is_some_and(|(answered, _)| answered.time_ns <= at.time_ns);
        self.drop_where(found, |call| call.asked.is_none() && (call.stream < stream || is_older(call)));
        match self.place(stream) {
            Some(place) => self.calls[place].asked = Some((at, heads)),
            None => {
                self.push(Call { stream, asked: Some((at, heads)), answer: None, end: None, is_told: false }, found)
            }
        }
        self.settle(stream, found);
    }

    /// An answer's head, or its trailers.
    pub(super) fn answer(&mut self, stream: u32, at: Moment, heads: Heads, found: &mut Found) {
        let is_end = heads.is_end;
        let is_head = heads.status.is_some_and(|status| status >= 200);
        match self.place(stream) {
            // Interim answers precede the one that counts.
            _ if heads.status.is_some_and(|status| status < 200) => return,
            Some(place) => match &mut self.calls[place].answer {
                Some((_, head)) => {
                    head.grpc_status = head.grpc_status.or(heads.grpc_status);
                    head.has_unknown |= heads.has_unknown;
                }
                answer => *answer = Some((at, heads)),
            },
            // Another thread may have read it before its request was recorded.
            None if is_head && stream > self.newest && !stream.is_multiple_of(2) => {
                let answer = Some((at, heads));
                self.push(Call { stream, asked: None, answer, end: None, is_told: false }, found);
            }
            // Those asked since are over already, as far as they are not here: broken off, or given way.
            None => {
                let is_older = self.oldest.is_none_or(|oldest| stream < oldest);
                found.unpaired += u64::from(is_head && is_older && !stream.is_multiple_of(2));
            }
        }
        if is_end {
            return self.end_of_answer(stream, at, found);
        }
        self.settle(stream, found);
    }

    /// The server's last frame of a stream.
    pub(super) fn end_of_answer(&mut self, stream: u32, at: Moment, found: &mut Found) {
        self.finish(stream, End::Whole(at), found);
    }

    /// A stream is broken off.
    pub(super) fn reset(&mut self, stream: u32, at: Moment, by: Side, code: u32, found: &mut Found) {
        self.finish(stream, End::Reset(at, by, code), found);
    }

    /// Streams past the last are not going to be answered: as if each were refused (section 8.7).
    pub(super) fn go_away(&mut self, last: u32, at: Moment, found: &mut Found) {
        let refused: Vec<u32> = self.calls.iter().map(|call| call.stream).filter(|stream| *stream > last).collect();
        for stream in refused {
            self.finish(stream, End::Reset(at, Side::Server, REFUSED_STREAM), found);
        }
    }

    /// Nothing that waits can be joined any more.
    pub(super) fn gap(&mut self, found: &mut Found) {
        found.lost += self.calls.drain(..).filter(|call| call.asked.is_some() && !call.is_told).count() as u64;
    }

    /// The connection is over.
    pub(super) fn end(&mut self, found: &mut Found) {
        found.unanswered += self.calls.iter().filter(|call| call.asked.is_some() && !call.is_told).count() as u64;
        self.drop_where(found, |_| true);
    }

    fn place(&self, stream: u32) -> Option<usize> {
        self.calls.iter().position(|call| call.stream == stream)
    }

    fn finish(&mut self, stream: u32, end: End, found: &mut Found) {
        if let Some(place) = self.place(stream) {
            self.calls[place].end = Some(end);
            self.settle(stream, found);
        }
    }

    /// Tell a stream's exchange once it is decided, and let go of it once it is over.
    fn settle(&mut self, stream: u32, found: &mut Found) {
        let Some(place) = self.place(stream) else { return };
        let call = &mut self.calls[place];
        let is_over = call.end.is_some();
        if !call.is_told {
            let Some((asked, request)) = call.asked.take() else { return };
            let answer = call.answer.take();
            let answered_as = answer.as_ref().and_then(|(_, head)| head.is_grpc());
            if !is_over && (answer.is_none() || request.is_grpc().or(answered_as) != Some(false)) {
                (call.asked, call.answer) = (Some((asked, request)), answer);
                return;
            }
            call.is_told = true;
            found.exchanges.push(exchange(asked, request, answer, call.end));
        }
        if is_over {
            self.calls.remove(place);
        }
    }

    fn push(&mut self, call: Call, found: &mut Found) {
        self.calls.push(call);
        while self.calls.len() > WAITING_MAX || self.text_bytes() > TEXT_BYTES_MAX {
            let place = self.calls.iter().position(|call| call.is_told).unwrap_or(0);
            let dropped = self.calls.remove(place);
            found.over_limit += u64::from(dropped.asked.is_some());
            found.unpaired += u64::from(dropped.asked.is_none() && !dropped.is_told);
        }
    }

    /// Let go of answers without a request.
    fn drop_where(&mut self, found: &mut Found, is_dropped: impl Fn(&Call) -> bool) {
        self.calls.retain(|call| {
            let is_dropped = !call.is_told && is_dropped(call);
            found.unpaired += u64::from(is_dropped && call.asked.is_none());
            !is_dropped
        });
    }

    fn text_bytes(&self) -> usize {
        let heads = |heads: &Option<(Moment, Heads)>| heads.as_ref().map_or(0, |(_, heads)| heads.text_bytes());
        self.calls.iter().map(|call| heads(&call.asked) + heads(&call.answer)).sum()
    }

    /// Memory that they take.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn held_bytes(&self) -> usize {
        self.calls.capacity() * size_of::<Call>() + self.text_bytes()
    }
}

fn exchange(asked: Moment, request: Heads, answer: Option<(Moment, Heads)>, end: Option<End>) -> Exchange {
    let of_answer = |get: fn(&Heads) -> Option<bool>| answer.as_ref().and_then(|(_, head)| get(head));
    let has_code = of_answer(|head| head.grpc_status.map(|_| true));
    let is_grpc = request.is_grpc.or(of_answer(|head| head.is_grpc)).or(has_code) == Some(true);
    let (answered, answer) = answer.map_or((None, None), |(at, heads)| (Some(at), Some(heads)));
    let make = if is_grpc { rpc } else { plain };
    let mut exchange = make(asked, request, answered, answer, end);
    // Bytes from before the request may stand at the head of what answers it: the answer itself came later.
    if exchange.answered.time_ns < asked.time_ns {
        exchange.answered = asked;
    }
    exchange
}

fn plain(asked: Moment, request: Heads, answered: Option<Moment>, answer: Option<Heads>, end: Option<End>) -> Exchange {
    let is_path_unknown = request.path.is_none() && request.has_unknown;
    let response = Response {
        status: answer.as_ref().and_then(|head| head.status),
        body_bytes: answer.as_ref().and_then(|head| head.body_bytes),
    };
    let ended = match end {
        Some(End::Whole(at) | End::Reset(at, ..)) => at,
        None => asked,
    };
    let mut exchange = http::exchange(asked, request.into(), answered.unwrap_or(ended), response);
    if is_path_unknown && exchange.name != UNKNOWN {
        exchange.name = format!("{} {UNKNOWN}", exchange.name);
    }
    if let Some(End::Reset(_, by, code)) = end {
        let error = ERRORS.get(code as usize).copied();
        exchange.error = Some(error.map_or_else(|| Cow::from("UNKNOWN"), Cow::from));
        exchange.is_fault_of_client = by == Side::Client;
    }
    exchange
}

fn rpc(asked: Moment, request: Heads, answered: Option<Moment>, answer: Option<Heads>, end: Option<End>) -> Exchange {
    let (mut code, at) = match end {
        // A client whose time is up cancels the stream: its own status is another than the code says.
        Some(End::Reset(at, ..))
            if request.timeout_ns.is_some_and(|ns| at.time_ns >= asked.time_ns.saturating_add(ns)) =>
        {
            (Some(grpc::DEADLINE_EXCEEDED), at)
        }
        Some(End::Reset(at, _, code)) => (Some(grpc::of_reset(code)), at),
        Some(End::Whole(at)) => (None, at),
        None => (None, answered.unwrap_or(asked)),
    };
    if let Some(head) = &answer {
        let missing = (!head.has_unknown && code.is_none()).then(|| head.status.map(grpc::of_http_status)).flatten();
        code = head.grpc_status.or(code).or(missing);
    }
    let mut attributes = Vec::with_capacity(12);
    attributes.push(string(semconv::RPC_SYSTEM, "grpc"));
    let name = match request.path.as_deref() {
        None => UNKNOWN.to_owned(),
        Some(path) => match grpc::method(path) {
            Some((service, method)) => {
                attributes.push(string(semconv::RPC_SERVICE, service.to_owned()));
                attributes.push(string(semconv::RPC_METHOD, method.to_owned()));
                path[1..].to_owned()
            }
            None => crate::route(path),
        },
    };
    let (host, port) = request.authority.as_deref().map_or((None, None), |text| authority(text.as_bytes()));
    attributes.extend(code.map(|code| int(semconv::RPC_GRPC_STATUS_CODE, i64::try_from(code).unwrap_or(i64::MAX))));
    attributes.extend(host.map(|host| string(semconv::SERVER_ADDRESS, host)));
    attributes.extend(port.map(|port| int(semconv::SERVER_PORT, port.into())));
    attributes.push(string(semconv::NETWORK_PROTOCOL_VERSION, "2"));
    attributes.extend(request.user_agent.map(|agent| string(semconv::USER_AGENT_ORIGINAL, agent.to_string())));
    Exchange {
        name,
        kind: Kind::Call,
        asked,
        answered: at,
        attributes,
        error: code.and_then(grpc::error).map(Cow::from),
        is_fault_of_client: code.is_some_and(|code| code != 0 && grpc::is_fault_of_client(code)),
        context: request.context.map(|context| *context),
    }
}
