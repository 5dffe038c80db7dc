//! What the follower waits for.

use super::*;
use crate::StartAt;
use crate::discover::Candidate;
use crate::identity::Beginning;
use crate::offsets::Mark;
use crate::tail::Start;
use ollystack_record::{Ledger, Pressure, Spans};

/// A follower of `log/a.log` in `folder`, which ends in a record that has been due for long.
fn follower(folder: &Path, config: Config) -> (Follower, FileId) {
    std::fs::create_dir(folder.join("log")).unwrap();
    std::fs::write(folder.join("log/a.log"), "INFO a\n").unwrap();
    let include = vec![folder.join("log/*.log").display().to_string()];
    let config = Config { include, start_at: StartAt::Beginning, poll_interval_ms: 600_000, ..config };
    let intake = Intake::new(8, 100, Arc::new(Ledger::default())).0;
    let mut follower =
        Follower::new(config, &folder.join("state"), Arc::new(Resource::default()), intake, Arc::default()).unwrap();
    let (limits, waits, early) = (follower.limits(), follower.waits(), Instant::now() - Duration::from_secs(60));
    let tail = follower.tails.values_mut().next().unwrap();
    tail.read(&mut follower.buffer, limits, waits, 0, early).unwrap();
    assert!(tail.due(waits).unwrap() < Instant::now());
    let id = tail.id;
    (follower, id)
}

#[tokio::test]
async fn what_is_due_waits_for_the_budget_without_turning_round() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, _) = follower(folder.path(), Config { bytes_per_second_max: 65_536, ..Config::default() });
    follower.budget.spend(1 << 30);
    assert!(follower.next_readable().is_none());
    follower.is_unsaved = false;
    assert!(follower.next_deadline() > Instant::now());
}

#[tokio::test]
async fn nothing_is_read_while_it_is_to_pause_and_without_turning_round() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, id) = follower(folder.path(), Config::default());
    let pressure = Arc::new(Pressure::default());
    follower.intake = follower.intake.under(Arc::clone(&pressure));
    follower.is_unsaved = false;
    follower.enqueue(id);
    pressure.rest(Duration::from_secs(60));
    // The budget has saved up something, and the file is due.
    assert!(follower.next_readable().is_none() && follower.budget.has_some(Instant::now() + Duration::from_secs(1)));
    assert!(follower.next_deadline() > Instant::now());
    pressure.rest(Duration::ZERO);
    assert!(follower.next_readable().is_some());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_tried_again_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, id) = follower(folder.path(), Config::default());
    follower.tails.get_mut(&id).unwrap().close();
    std::fs::rename(folder.path().join("log"), folder.path().join("old")).unwrap();
    std::fs::write(folder.path().join("log"), "no folder").unwrap();
    assert!(follower.turn(id, &CancellationToken::new()).await == Flow::On);
    assert_eq!(follower.stats.read().errors, 1);
    assert!(follower.tails[&id].due(follower.waits()).unwrap() > Instant::now());
}

#[tokio::test]
async fn a_file_that_no_walk_finds_keeps_its_name_while_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, id) = follower(folder.path(), Config::default());
    let include = vec![folder.path().join("elsewhere/*.log").display().to_string()];
    follower.globs = Arc::new(Globs::new(&Config { include, ..Config::default() }).unwrap());
    follower.walk(Instant::now());
    assert!(!follower.tails[&id].is_nameless(), "the folder could not be read");
    std::fs::remove_file(folder.path().join("log/a.log")).unwrap();
    follower.walk(Instant::now());
    assert!(follower.tails[&id].is_nameless());
}

#[tokio::test]
async fn a_file_whose_name_went_to_another_before_it_was_opened_is_not_taken_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, id) = follower(folder.path(), Config::default());
    let path = folder.path().join("log/b.log");
    std::fs::write(&path, "INFO b\n").unwrap();
    let (base, seen) = (path.parent().unwrap().into(), FileId { inode: id.inode + 1_000_000, ..id });
    let found = Candidate { path: path.clone(), base, id: seen, size: 7, stamp: Default::default() };
    assert!(follower.opened(&found).is_none());
    assert!(follower.has_missed, "it is looked for under its new name");
    let id = FileId::of(&std::fs::metadata(&path).unwrap());
    assert!(follower.opened(&Candidate { id, ..found }).is_some());
}

#[tokio::test]
async fn another_file_of_the_same_size_in_the_place_of_one_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (mut follower, id) = follower(folder.path(), Config::default());
    let path = folder.path().join("log/a.log");
    // As the inode of a file that was closed and is gone: for whoever looks at it later there is no difference.
    follower.tails.get_mut(&id).unwrap().close();
    let stamp = || crate::identity::stamp(&std::fs::metadata(&path).unwrap());
    let before = stamp();
    while stamp() == before {
        std::fs::write(&path, "INFO b\n").unwrap();
    }
    follower.queue.clear();
    follower.walk(Instant::now());
    assert!(follower.queue.contains(&id), "it is looked at");
    assert!(follower.turn(id, &CancellationToken::new()).await == Flow::On);
    assert_eq!(follower.stats.read().truncations, 1);
    follower.walk(Instant::now());
    follower.queue.clear();
    follower.walk(Instant::now());
    assert!(follower.queue.is_empty(), "once");
}

#[tokio::test]
async fn each_file_of_a_state_without_lives_and_of_a_clock_that_was_ahead_has_a_life_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (log, state) = (folder.path().join("log"), folder.path().join("state"));
    std::fs::create_dir(&log).unwrap();
    let start = || {
        let include = vec![log.join("*.log").display().to_string()];
        let config = Config { include, start_at: StartAt::Beginning, ..Config::default() };
        let intake = Intake::new(8, 100, Arc::new(Ledger::default())).0;
        Follower::new(config, &state, Arc::new(Resource::default()), intake, Arc::default()).unwrap()
    };
    for name in ["b.log", "c.log", "d.log"] {
        std::fs::write(log.join(name), format!("INFO {name}\n")).unwrap();
    }
    drop(start());
    let store = Store::new(&state).unwrap();
    let Loaded::State(mut saved) = store.load().unwrap() else { unreachable!() };
    let ahead = u64::MAX / 2;
    saved.files.iter_mut().zip([0, 0, ahead]).for_each(|(entry, life)| entry.life = life);
    store.save(saved.saved_unix_nano, saved.files).unwrap();
    std::fs::write(log.join("a.log"), "INFO a\n").unwrap();
    let mut lives: Vec<u64> = start().tails.values().map(|tail| tail.life).collect();
    lives.sort_unstable();
    lives.dedup();
    assert_eq!(lives.len(), 4, "verdicts on one would move the offset of another");
    assert_eq!(lives[0], ahead, "those that had one keep it, and no other may get it");
}

#[tokio::test]
async fn what_the_run_before_had_done_is_passed_over_also_when_all_before_it_is_settled_first() {
    let folder = tempfile::tempdir().unwrap();
    let (follower, _) = follower(folder.path(), Config::default());
    let path = folder.path().join("log/b.log");
    std::fs::write(&path, "1\n2\n3\n").unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let (beginning, id) = (Beginning::read(&file).unwrap(), FileId::of(&file.metadata().unwrap()));
    let found = Candidate { base: path.parent().unwrap().into(), path, id, size: 6, stamp: Default::default() };
    let start = Start { life: 1, mark: Mark::default(), done: Spans::one(2, 4), earlier: None };
    let mut tail = Tail::new(&found, file, &beginning, start, (&follower.host, &follower.rules), Instant::now());
    tail.handed_in(2, (false, false), 1);
    tail.settle(&Spans::one(0, 2));
    assert_eq!((tail.committed.offset, tail.position.offset), (4, 4));
}
