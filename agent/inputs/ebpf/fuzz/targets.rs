//! Fuzz targets of what the kernel programs write and of what applications send: records, HTTP heads, type information.
//!
//! Invariants held here: nothing panics, whatever bytes a ring or a socket gives; no table grows past its limit.

use crate::btf::Btf;
use crate::http::{Http, parse};
use crate::process::ProcessEvents;
use crate::processes::Processes;
use crate::tcp::Tcp;
use ollystack_record::{Intake, Ledger, Resource};
use std::sync::Arc;

/// Records of two rings, each with a length before it: two bytes, the first bit says which.
pub fn records(data: &[u8]) {
    let host = Arc::new(Resource::default());
    let mut processes = Processes::new(Arc::clone(&host), 16);
    let (mut http, mut tcp) = (Http::new(8), Tcp::new(8, 0));
    let mut events = ProcessEvents::new(host, 4, 0);
    let (intake, mut received) = Intake::new(64, 4_096, Arc::new(Ledger::default()));
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let (record, tail) = tail.split_at(tail.len().min(usize::from(head >> 2)));
        match head & 3 {
            0 => drop(events.take(record, 0)),
            1 => tcp.take(record, &mut processes),
            kind => http.take(record, kind == 2, 0, &mut processes),
        }
        rest = tail;
    }
    let stats = crate::Stats::default();
    http.hand_in(&intake, &stats);
    http.settle(u64::MAX, &intake, &stats);
    events.hand_in(&intake);
    drop((events.read(1), tcp.read(1)));
    while received.try_recv().is_ok() {}
}

/// The head of a request or an answer.
pub fn http(data: &[u8]) {
    if let Some(request) = parse::request(data) {
        // A byte that is no UTF-8 becomes a character of three.
        assert!(request.path.is_none_or(|path| path.len() <= 3 * data.len()), "a path longer than its head");
    }
    let _ = parse::response(data);
}

/// A kernel's type information.
pub fn btf(data: &[u8]) {
    if let Some(btf) = Btf::parse(data) {
        let _ = (btf.offset("sock", "sk_state"), btf.offset("task_struct", "tgid"));
    }
}
