//! Which processes are reported: those that serve traffic, the top by CPU time, the top by memory, and for a while those
//! that were among them lately.
//!
//! Kernel threads are never among them: their work is the host's, and their names change with what they do. Nor is a process that
//! the scan before did not see, unless it serves: on hosts that start many short ones, each would be a dozen series of one sample.
//! Invariant: at most `max` are chosen, in that order of right.

use super::stat::Stat;
use hashbrown::{HashMap, HashSet};

/// A process for good: pids are used again, pid and start are not.
pub(crate) type Key = (u32, u64);

/// How many are chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// By CPU time, and as many by memory.
    pub(crate) top: usize,
    /// In all.
    pub(crate) max: usize,
}

/// Indices into `processes`, and whether each is chosen for what it does now rather than for what it did lately. `before`
/// has each process' user and kernel ticks at the last scan; before the first scan it is empty, and every process counts as known.
pub(crate) fn choose(
    processes: &[Stat],
    before: &HashMap<Key, [u64; 2]>,
    serving: &HashSet<Key>,
    lately: impl Fn(&Key) -> bool,
    limits: Limits,
) -> Vec<(usize, bool)> {
    let key = |index: &usize| (processes[*index].pid, processes[*index].start);
    let worked = |index: usize| {
        let stat = &processes[index];
        let [user, system] = before.get(&(stat.pid, stat.start)).copied().unwrap_or_default();
        stat.ticks().saturating_sub(user.saturating_add(system))
    };
    let all = (0..processes.len()).filter(|index| !processes[*index].is_kernel_thread());
    let mut chosen: Vec<usize> = all.clone().filter(|index| serving.contains(&key(index))).collect();
    let all = all.filter(|index| before.is_empty() || before.contains_key(&key(index)));
    chosen.extend(top(all.clone().map(|index| (worked(index), index)), limits.top));
    chosen.extend(top(all.clone().map(|index| (processes[index].resident_pages, index)), limits.top));
    let mut chosen: Vec<(usize, bool)> = chosen.into_iter().map(|index| (index, true)).collect();
    chosen.extend(all.filter(|index| lately(&key(index))).map(|index| (index, false)));
    let mut seen = HashSet::with_capacity(chosen.len());
    chosen.retain(|(index, _)| seen.insert(*index));
    chosen.truncate(limits.max);
    chosen
}

/// The indices of the largest amounts, largest first; nothing is not an amount.
fn top(amounts: impl Iterator<Item = (u64, usize)>, count: usize) -> Vec<usize> {
    let mut amounts: Vec<_> = amounts.filter(|(amount, _)| *amount > 0).collect();
    amounts.sort_unstable_by(|a, b| b.cmp(a));
    amounts.into_iter().take(count).map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ticks: u64, pages: u64) -> Stat {
        let text = format!("{pid} (p) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 7 4096 {pages} 0");
        super::super::stat::parse(text.as_bytes()).unwrap()
    }

    fn pids(processes: &[Stat], chosen: Vec<(usize, bool)>) -> Vec<u32> {
        chosen.into_iter().map(|(index, _)| processes[index].pid).collect()
    }

    #[test]
    fn who_serves_comes_first_then_who_works_then_who_holds_memory_then_who_did() {
        let processes = [
            process(1, 100, 0),
            process(2, 500, 5),
            process(3, 900, 0),
            process(4, 0, 9),
            process(5, 0, 1),
            process(6, 0, 0),
        ];
        let idle = [4, 5, 6].map(|pid| ((pid, 7), [0, 0]));
        let mut before = HashMap::from([((1, 7), [0, 0]), ((2, 7), [490, 9]), ((3, 7), [900, 0])]);
        before.extend(idle);
        let serving = HashSet::from([(5, 7)]);
        let lately = |key: &Key| *key == (6, 7);
        let limits = |top, max| Limits { top, max };
        let choose = |limits| pids(&processes, choose(&processes, &before, &serving, lately, limits));
        assert_eq!(choose(limits(1, 9)), [5, 1, 4, 6]);
        assert_eq!(choose(limits(9, 9)), [5, 1, 2, 4, 6], "no CPU time and no memory is no reason");
        assert_eq!(choose(limits(9, 2)), [5, 1]);
        assert_eq!(choose(limits(0, 9)), [5, 6]);
    }

    #[test]
    fn a_kernel_thread_is_nobody_s_process() {
        let mut thread = process(2, 1_000, 0);
        thread.virtual_bytes = 0;
        assert!(choose(&[thread], &HashMap::new(), &HashSet::new(), |_| true, Limits { top: 9, max: 9 }).is_empty());
    }

    #[test]
    fn a_process_that_the_scan_before_did_not_see_is_chosen_only_if_it_serves() {
        let processes = [process(1, 90, 9), process(2, 80, 8), process(3, 1, 1)];
        let before = HashMap::from([((3, 7), [0, 0])]);
        let limits = Limits { top: 9, max: 9 };
        let choose = |before, serving| pids(&processes, super::choose(&processes, before, &serving, |_| false, limits));
        assert_eq!(choose(&before, HashSet::new()), [3]);
        assert_eq!(choose(&before, HashSet::from([(2, 7)])), [2, 3]);
        assert_eq!(choose(&HashMap::new(), HashSet::new()), [1, 2, 3], "nothing was seen before the first scan");
    }

    #[test]
    fn a_pid_used_again_is_another_process() {
        let processes = [process(1, 50, 0)];
        let before = HashMap::from([((1, 6), [50, 0])]);
        let (none, serving) = (HashSet::new(), HashSet::from([(1, 7)]));
        let limits = Limits { top: 1, max: 1 };
        assert_eq!(choose(&processes, &before, &none, |_| false, limits), [], "it was not there at the scan before");
        assert_eq!(choose(&processes, &before, &serving, |_| false, limits), [(0, true)]);
    }
}
