//! Which request a process was serving when it asked another, or wrote a line: the span that what it asked or wrote belongs to, where
//! that is beyond doubt.
//!
//! In: requests as they begin and end, and what was asked and written meanwhile, with threads and times. Out: the span under which a
//! client's request goes, or a line of a log. A request is the parent of what its own thread asks while it is the only one that is open there; and only in
//! processes that were seen to work so: that answer on the thread that was asked, and whose threads seldom ask for nobody they
//! serve. In Go programs whose goroutines are told apart, goroutines stand for threads. A wrong parent is worse than none, so a
//! process that once answers on another thread has no parents from then on: its work wanders between threads. Lines are written for less reason than requests: by
//! timers, and after the answer. So a process whose thread once serves two at a time has no lines, and one that can wait for many at once (an event loop) has them only
//! after its threads were often seen to serve side by side. Invariant: at most [`PROCESSES_MAX`] processes with [`SERVED_MAX`] requests each are remembered.

use super::span::Ids;
use hashbrown::HashMap;
use ollystack_ebpf::flow::GOROUTINE;
use ollystack_protocols::Moment;
use std::collections::VecDeque;

/// Processes that serve. With more of them all begin anew.
const PROCESSES_MAX: usize = 512;
/// Requests of a process that are open, or were lately: what was asked before an answer went out may be answered after it.
const SERVED_MAX: usize = 256;
/// Answers on the thread that was asked, before a process is believed to work so.
const ANSWERS_MIN: u32 = 8;
/// Of so many that a process asks, one may be for nobody it serves: its pools and exporters.
const STRAY_SHARE: u32 = 4;
/// Requests on two threads at the same time, before a process that could serve them all on one is believed not to.
const BESIDE_MIN: u32 = 32;
/// A process that was asked nothing for so long is not looked at for lines.
const QUIET_NS: u64 = 60_000_000_000;

/// What is known of those who serve.
#[derive(Debug, Default)]
pub(super) struct Parents {
    processes: HashMap<u32, Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// In the order in which they came.
    served: VecDeque<Served>,
    answers: u32,
    /// An answer came from another thread than the one that was asked.
    wanders: bool,
    /// Asked by a thread that serves somebody, and by one that does not while others do.
    own: u32,
    stray: u32,
    /// A thread served two requests at a time.
    interleaves: bool,
    /// Requests that came on a thread while another thread served.
    beside: u32,
    /// Whether it can wait for many connections at once; not known at first.
    has_loop: Option<bool>,
    asked_ns: u64,
    /// It is a Go program whose goroutines are told apart; what its threads did before, and what those of C do, tells nothing.
    has_goroutines: bool,
}

/// A request that is served here.
#[derive(Debug)]
struct Served {
    socket: u64,
    asked: Moment,
    answered_ns: Option<u64>,
    ids: Ids,
}

impl Served {
    fn is_open_at(&self, time_ns: u64) -> bool {
        self.asked.time_ns <= time_ns && self.answered_ns.is_none_or(|answered| time_ns <= answered)
    }
}

impl Parents {
    /// A request has come in, whose span is to have these identifiers.
    pub(super) fn began(&mut self, process: u32, socket: u64, asked: Moment, ids: Ids) {
        if self.processes.len() == PROCESSES_MAX && !self.processes.contains_key(&process) {
            self.processes.clear();
        }
        let process = self.processes.entry(process).or_default();
        if is_goroutine(asked) && !process.has_goroutines {
            *process = Process { has_goroutines: true, ..Process::default() };
        }
        process.asked_ns = asked.time_ns;
        let served = &mut process.served;
        if served.len() == SERVED_MAX {
            // Mostly the first: what was answered gives way before what is open.
            let answered = served.iter().position(|it| it.answered_ns.is_some());
            served.remove(answered.unwrap_or(0));
        }
        served.push_back(Served { socket, asked, answered_ns: None, ids });
    }

    /// It was answered. The identifiers of its span.
    pub(super) fn ended(&mut self, process: u32, socket: u64, asked: Moment, answered: Moment) -> Option<Ids> {
        let process = self.processes.get_mut(&process)?;
        if is_goroutine(asked) == process.has_goroutines {
            process.wanders |= answered.thread != asked.thread;
            process.answers = process.answers.saturating_add(1);
        }
        let at = process.served.iter().rposition(|it| it.socket == socket && it.asked == asked)?;
        for meanwhile in process.served.range(at + 1..).filter(|it| it.asked.time_ns < answered.time_ns) {
            process.interleaves |= meanwhile.asked.thread == asked.thread;
            process.beside = process.beside.saturating_add(1);
        }
        let served = process.served.get_mut(at)?;
        served.answered_ns = Some(answered.time_ns.max(asked.time_ns));
        Some(served.ids)
    }

    /// Its connection is over, or records of it were lost: what is open on it will not be told any more.
    pub(super) fn forget(&mut self, process: u32, socket: u64) {
        if let Some(process) = self.processes.get_mut(&process) {
            process.served.retain(|it| it.socket != socket || it.answered_ns.is_some());
        }
    }

    /// Under which span a process asked somebody else.
    pub(super) fn of(&mut self, process: u32, asked: Moment) -> Option<Ids> {
        let process = self.processes.get_mut(&process)?;
        let open = process.open_at(asked);
        match open {
            Open::One(..) | Open::Several => process.own = process.own.saturating_add(1),
            Open::Elsewhere => process.stray = process.stray.saturating_add(1),
            Open::Nowhere => {}
        }
        let is_believed = process.answers_where_asked() && process.stray.saturating_mul(STRAY_SHARE) <= process.own;
        match open {
            Open::One(ids, _) if is_believed => Some(ids),
            _ => None,
        }
    }

    /// Under which span a process wrote a line, and when its request came.
    pub(super) fn wrote(&self, process: u32, written: Moment) -> Option<(Ids, u64)> {
        let process = self.processes.get(&process)?;
        match process.open_at(written) {
            Open::One(ids, asked_ns) if process.is_believed_to_log() => Some((ids, asked_ns)),
            _ => None,
        }
    }

    /// Processes whose lines are to be looked at: those that serve, lately, unless it is known that nothing can be said of theirs. Lines
    /// of those that are not believed yet count as doubt about others that say the same. With each, whether it is believed.
    pub(super) fn loggers(&mut self, now_ns: u64, has_loop: impl Fn(u32) -> bool) -> impl Iterator<Item = (u32, bool)> {
        let lately = self.processes.iter_mut().filter(move |(_, it)| now_ns.saturating_sub(it.asked_ns) < QUIET_NS);
        lately.filter(|(_, process)| !process.wanders && !process.interleaves).map(move |(number, process)| {
            if process.answers_where_asked() && !process.has_goroutines && process.has_loop.is_none() {
                process.has_loop = Some(has_loop(*number));
            }
            (*number, process.is_believed_to_log())
        })
    }
}

/// Requests that a process serves at a moment.
enum Open {
    /// On this thread, and no other there; and when it came.
    One(Ids, u64),
    Several,
    /// On other threads alone.
    Elsewhere,
    Nowhere,
}

impl Process {
    fn open_at(&self, moment: Moment) -> Open {
        let open = || self.served.iter().filter(|it| it.is_open_at(moment.time_ns));
        let mut here = open().filter(|it| it.asked.thread == moment.thread);
        match (here.next(), here.next()) {
            (Some(only), None) => Open::One(only.ids, only.asked.time_ns),
            (Some(_), Some(_)) => Open::Several,
            _ if open().next().is_some() => Open::Elsewhere,
            _ => Open::Nowhere,
        }
    }

    fn answers_where_asked(&self) -> bool {
        self.answers >= ANSWERS_MIN && !self.wanders
    }

    fn is_believed_to_log(&self) -> bool {
        let blocks = self.has_goroutines || self.has_loop == Some(false) || self.beside >= BESIDE_MIN;
        self.answers_where_asked() && !self.interleaves && blocks
    }
}

fn is_goroutine(moment: Moment) -> bool {
    moment.thread & GOROUTINE != 0
}

#[cfg(test)]
mod tests {
    use super::super::span::Identifiers;
    use super::*;
    use ollystack_ebpf::flow::SERVER;
    use ollystack_protocols::Context;

    const PROCESS: u32 = 7;

    fn ids(context: Option<Context>, identifiers: &mut Identifiers) -> Ids {
        Ids::of_request(SERVER, context, None, identifiers).unwrap()
    }

    fn at(thread: u32, time_ns: u64) -> Moment {
        Moment { time_ns, thread }
    }

    /// A process that was seen to answer each request on its own thread, up to time 100.
    fn believed() -> (Parents, Identifiers) {
        let (mut parents, mut identifiers) = (Parents::default(), Identifiers::new());
        for number in 0..u64::from(ANSWERS_MIN) {
            parents.began(PROCESS, 1, at(1, number), ids(None, &mut identifiers));
            parents.ended(PROCESS, 1, at(1, number), at(1, number));
        }
        (parents, identifiers)
    }

    #[test]
    fn what_a_thread_asks_while_it_serves_one_request_is_that_request_s() {
        let (mut parents, mut identifiers) = believed();
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        let inside = parents.of(PROCESS, at(3, 210)).unwrap();
        assert_eq!(parents.ended(PROCESS, 5, at(3, 200), at(3, 220)), Some(inside));
        // Told after the answer, asked before it; and asked after it.
        assert_eq!(parents.of(PROCESS, at(3, 215)), Some(inside));
        assert_eq!((parents.of(PROCESS, at(3, 221)), parents.of(PROCESS, at(3, 199))), (None, None));
        assert_eq!(parents.of(PROCESS + 1, at(3, 210)), None);
    }

    #[test]
    fn two_requests_on_one_thread_are_no_parents() {
        let (mut parents, mut identifiers) = believed();
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        parents.began(PROCESS, 6, at(3, 201), ids(None, &mut identifiers));
        parents.began(PROCESS, 8, at(4, 201), ids(None, &mut identifiers));
        assert_eq!(parents.of(PROCESS, at(3, 210)), None);
        assert!(parents.of(PROCESS, at(4, 210)).is_some());
        parents.forget(PROCESS, 6);
        assert!(parents.of(PROCESS, at(3, 211)).is_some());
    }

    #[test]
    fn a_process_is_believed_only_once_it_was_seen_to_answer_where_it_was_asked() {
        let (mut parents, mut identifiers) = (Parents::default(), Identifiers::new());
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        assert_eq!(parents.of(PROCESS, at(3, 210)), None, "not yet");
        let (mut parents, mut identifiers) = believed();
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        parents.ended(PROCESS, 5, at(3, 200), at(4, 220));
        parents.began(PROCESS, 5, at(3, 300), ids(None, &mut identifiers));
        assert_eq!(parents.of(PROCESS, at(3, 310)), None, "its work wanders");
    }

    #[test]
    fn a_process_whose_threads_ask_for_others_has_no_parents() {
        let (mut parents, mut identifiers) = believed();
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        assert!(parents.of(PROCESS, at(3, 210)).is_some());
        // A loop that asks for whoever it is told to.
        assert_eq!(parents.of(PROCESS, at(9, 211)), None);
        assert_eq!(parents.of(PROCESS, at(3, 212)), None);
        for time_ns in 213..220 {
            parents.of(PROCESS, at(3, time_ns));
        }
        assert!(parents.of(PROCESS, at(3, 230)).is_some(), "one of many is a pool's or an exporter's");
    }

    #[test]
    fn a_go_program_is_judged_by_its_goroutines_once_they_are_told_apart() {
        let (mut parents, mut identifiers) = (Parents::default(), Identifiers::new());
        let goroutine = |number: u32, time_ns| at(GOROUTINE | number, time_ns);
        // Its threads serve whoever comes, and one of its requests is under way when its goroutines are first seen.
        parents.began(PROCESS, 5, at(3, 1), ids(None, &mut identifiers));
        parents.ended(PROCESS, 5, at(3, 1), at(4, 2));
        parents.began(PROCESS, 6, at(3, 3), ids(None, &mut identifiers));
        for number in 10..10 + u64::from(ANSWERS_MIN) {
            parents.began(PROCESS, 1, goroutine(9, number), ids(None, &mut identifiers));
            parents.ended(PROCESS, 1, goroutine(9, number), goroutine(9, number));
        }
        parents.ended(PROCESS, 6, at(3, 3), goroutine(8, 30));
        parents.began(PROCESS, 5, goroutine(3, 200), ids(None, &mut identifiers));
        assert!(parents.of(PROCESS, goroutine(3, 210)).is_some());
        assert_eq!(parents.of(PROCESS, at(3, 210)), None, "a thread of that number is another");
        parents.ended(PROCESS, 5, goroutine(3, 200), goroutine(4, 220));
        parents.began(PROCESS, 5, goroutine(3, 300), ids(None, &mut identifiers));
        assert_eq!(parents.of(PROCESS, goroutine(3, 310)), None, "its work wanders between goroutines");
    }

    #[test]
    fn a_request_s_own_context_goes_on() {
        let (mut parents, mut identifiers) = believed();
        let context = Context { trace: [9; 16], parent: [8; 8], flags: 1 };
        parents.began(PROCESS, 5, at(3, 200), ids(Some(context), &mut identifiers));
        assert_eq!(parents.of(PROCESS, at(3, 210)).map(|ids| ids.trace), Some([9; 16]));
    }

    #[test]
    fn a_line_is_of_the_only_request_that_its_thread_serves_until_it_is_answered() {
        let (mut parents, mut identifiers) = believed();
        assert!(parents.loggers(100, |_| false).eq([(PROCESS, true)]));
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        parents.began(PROCESS, 6, at(4, 201), ids(None, &mut identifiers));
        let under = parents.wrote(PROCESS, at(3, 210));
        assert!(under.is_some() && parents.wrote(PROCESS, at(4, 210)) != under);
        assert_eq!((parents.wrote(PROCESS, at(9, 210)), parents.wrote(PROCESS, at(3, 199))), (None, None));
        assert_eq!(parents.ended(PROCESS, 5, at(3, 200), at(3, 220)).map(|ids| (ids, 200)), under);
        assert_eq!((parents.wrote(PROCESS, at(3, 219)), parents.wrote(PROCESS, at(3, 221))), (under, None));
    }

    #[test]
    fn a_thread_that_serves_two_at_a_time_may_write_for_either_from_then_on() {
        let (mut parents, mut identifiers) = believed();
        assert!(parents.loggers(100, |_| false).eq([(PROCESS, true)]));
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        parents.began(PROCESS, 6, at(3, 201), ids(None, &mut identifiers));
        assert_eq!(parents.wrote(PROCESS, at(3, 210)), None);
        parents.ended(PROCESS, 5, at(3, 200), at(3, 220));
        assert_eq!(parents.wrote(PROCESS, at(3, 230)), None, "the first is not the only one that it may be of");
        parents.ended(PROCESS, 6, at(3, 201), at(3, 240));
        parents.began(PROCESS, 5, at(3, 300), ids(None, &mut identifiers));
        assert_eq!(parents.wrote(PROCESS, at(3, 310)), None);
        assert_eq!(parents.loggers(310, |_| false).count(), 0);
    }

    #[test]
    fn a_process_with_an_event_loop_has_lines_only_after_its_threads_served_side_by_side() {
        let (mut parents, mut identifiers) = believed();
        assert!(parents.loggers(100, |_| true).eq([(PROCESS, false)]));
        for number in 0..u64::from(BESIDE_MIN) {
            let time = 1_000 + number * 100;
            parents.began(PROCESS, 5, at(3, time), ids(None, &mut identifiers));
            parents.began(PROCESS, 6, at(4, time + 1), ids(None, &mut identifiers));
            assert_eq!(parents.wrote(PROCESS, at(3, time + 2)), None, "not yet");
            parents.ended(PROCESS, 5, at(3, time), at(3, time + 3));
            parents.ended(PROCESS, 6, at(4, time + 1), at(4, time + 4));
        }
        parents.began(PROCESS, 5, at(3, 9_000), ids(None, &mut identifiers));
        assert!(parents.wrote(PROCESS, at(3, 9_001)).is_some());
    }

    #[test]
    fn who_is_asked_nothing_any_more_and_whose_work_wanders_is_not_looked_at() {
        let (mut parents, mut identifiers) = believed();
        assert_eq!(parents.loggers(QUIET_NS, |_| false).count(), 1);
        assert_eq!(parents.loggers(2 * QUIET_NS, |_| false).count(), 0);
        parents.began(PROCESS, 5, at(3, 200), ids(None, &mut identifiers));
        parents.ended(PROCESS, 5, at(3, 200), at(4, 220));
        assert_eq!(parents.loggers(QUIET_NS, |_| false).count(), 0);
    }

    #[test]
    fn neither_requests_nor_processes_grow_without_limit() {
        let (mut parents, mut identifiers) = (Parents::default(), Identifiers::new());
        for number in 0..1_000 {
            parents.began(PROCESS, number, at(1, number), ids(None, &mut identifiers));
            parents.began(100 + number as u32, number, at(1, number), ids(None, &mut identifiers));
            assert!(parents.processes.len() <= PROCESSES_MAX);
            assert!(parents.processes.get(&PROCESS).is_none_or(|process| process.served.len() <= SERVED_MAX));
        }
    }
}
