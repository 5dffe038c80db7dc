//! Opening a directory: lock it, read what is there, set damage aside.
//!
//! From files to a `Store`. Invariant: nothing that can be read is thrown away here except to come under the cap, and nothing
//! is loaded but counts.

use crate::recent::Recent;
use crate::segment::{Segment, Totals, parse_name, wal_path};
use crate::space::Space;
use crate::state::{BLOCK_IDS, Noted, State};
use crate::store::Store;
use crate::{Error, KINDS, Loss, Observer, Options, Quarantined, Recovery, WhenFull, segment};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Smallest cap: state, reserve, and some segments with their WALs.
const BYTES_MAX_LEAST: u64 = 4 << 20;
/// Smallest segment: well above its fixed parts.
const SEGMENT_BYTES_LEAST: u64 = 256 << 10;
/// Blocks skipped when the state file is gone although segments are there: more starts than could have gone unseen.
const BLOCKS_SKIPPED: u64 = 1024;

/// A store, and what was found.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) recovery: Recovery,
    /// The highest id that was given, by class.
    pub(crate) last_ids: [u64; KINDS],
}

/// Open the directory.
pub(crate) fn open(options: Options, observer: Arc<dyn Observer>) -> Result<Opened, Error> {
    check(&options)?;
    let directory = options.directory.clone();
    make_directory(&directory)?;
    let lock = lock(&directory)?;
    let found = list(&directory)?;
    let (mut state, noted) = State::open(&directory)?;

    let (space, recent) = (Space::new(options.segment_bytes_max), Recent::new(options.segment_bytes_max));
    let mut highest_id = highest_quarantined(&directory);
    let mut segments = BTreeMap::new();
    let (mut damaged, mut last_ids) = (Vec::new(), noted.last_ids);
    for (first_id, class) in found {
        let mut segment = Segment::new(&directory, first_id, class, space);
        let mut scanned = segment.load();
        // As many entries as there were at most, and not the same: more of them are left by a kill between an ack and its delete.
        let is_odd = |told: &Totals| told.entries >= segment.live.entries && *told != segment.live;
        if scanned.is_ok() && noted.latest && noted.totals.get(&first_id).is_some_and(is_odd) {
            scanned = segment.drop_damaged();
        }
        segment.disconnect();
        highest_id = highest_id.max(first_id).max(segment.last);
        match scanned {
            Ok(()) => {
                let last = &mut last_ids[usize::from(class) % KINDS];
                *last = segment.last.max(*last);
                segments.insert(first_id, segment);
            }
            Err(error) => damaged.push((segment, error)),
        }
    }
    let skipped = if state.block == 0 && highest_id > 0 { BLOCKS_SKIPPED } else { 1 };
    let block = (highest_id / BLOCK_IDS).max(state.block) + skipped;
    state.set_block(block)?;
    state.clear();

    let reserve_bytes = (options.bytes_max / 64).min(1 << 20);
    let reserve_there = reserve(&directory, reserve_bytes);
    let mut store = Store {
        options,
        space,
        observer,
        _lock: lock,
        state,
        segments,
        recent,
        leased: BTreeMap::new(),
        released: BTreeMap::new(),
        next_id: block * BLOCK_IDS,
        last_ids,
        recovered_below: block * BLOCK_IDS,
        quarantine_bytes: 0,
        reserve_bytes,
        reserve_there,
        turn: 0,
        leases: 0,
        put_failures: 0,
        commits: 0,
    };
    let mut quarantined = missing(&store, &noted, &damaged);
    quarantined.extend(damaged.into_iter().map(|(segment, why)| bury(&store, segment, &noted, &why)));
    store.quarantine_bytes = bound_quarantine(&store.options);
    take_up(&mut store);
    if store.options.when_full == WhenFull::Evict {
        // The cap may be smaller than last time.
        store.make_room(0, 0)?;
    }
    let mut held = Totals::default();
    store.segments.values().for_each(|segment| held.add(&segment.live));
    let recovery = Recovery { entries: held.entries, records_by_signal: held.records, bytes: held.bytes, quarantined };
    sync_directory(&directory)?;
    Ok(Opened { store, recovery, last_ids })
}

fn check(options: &Options) -> Result<(), Error> {
    let (bytes, segment) = (options.bytes_max, options.segment_bytes_max);
    if bytes < BYTES_MAX_LEAST {
        let allowed = format!("at least {BYTES_MAX_LEAST}");
        return Err(Error::Option { field: "bytes_max", value: bytes, allowed });
    }
    if !(SEGMENT_BYTES_LEAST..=bytes / 4).contains(&segment) {
        let allowed = format!("{SEGMENT_BYTES_LEAST} to {} (a quarter of bytes_max)", bytes / 4);
        return Err(Error::Option { field: "segment_bytes_max", value: segment, allowed });
    }
    Ok(())
}

/// Make the directory, and its name and those above it durable: they may be as new, and what is synced below a name that power
/// takes is gone with it. Once there is a state file, that was done.
fn make_directory(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|error| Error::io(directory, &error))?;
    if directory.join("state").exists() {
        return Ok(());
    }
    let whole = fs::canonicalize(directory).map_err(|error| Error::io(directory, &error))?;
    for above in whole.ancestors().skip(1) {
        match File::open(above).and_then(|folder| folder.sync_all()) {
            // Somebody else's, as is then the name in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(|error| Error::io(above, &error))?,
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| Error::io(&path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { directory: directory.to_path_buf() }),
        Err(error) => Err(Error::io(&path, &error.into())),
    }
}

/// Segments by name; a WAL whose segment is gone is deleted.
fn list(directory: &Path) -> Result<Vec<(u64, u8)>, Error> {
    let mut found = Vec::new();
    for path in files(directory).map_err(|error| Error::io(directory, &error))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match parse_name(name) {
            Some((first_id, class, segment::FORMAT)) => found.push((first_id, class)),
            Some((.., format)) => return Err(Error::Version { path, found: format, known: segment::FORMAT }),
            None => {
                if let Some(owner) = name.strip_suffix("-wal")
                    && parse_name(owner).is_some()
                    && !directory.join(owner).exists()
                {
                    remove(&path);
                }
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Count what segments that can be read have lost: a WAL ends at its first damaged frame, whatever came behind it.
fn missing(store: &Store, noted: &Noted, damaged: &[(Segment, Error)]) -> Vec<Quarantined> {
    if !noted.latest {
        return Vec::new();
    }
    let mut missing = Vec::new();
    let readable = |first_id: &u64| !damaged.iter().any(|(segment, _)| segment.first_id == *first_id);
    for (first_id, before) in noted.totals.iter().filter(|(first_id, _)| readable(first_id)) {
        let Some(segment) = store.segments.get(first_id) else { continue };
        let mut lost = *before;
        lost.subtract(&segment.live);
        if lost.entries > 0 {
            let path = segment.path.clone();
            tracing::error!(path = %path.display(), entries = lost.entries, "a segment has lost entries, most likely those of a damaged WAL");
            store.lost(&lost, Loss::Corrupt);
            missing.push(Quarantined {
                path,
                entries: lost.entries,
                records_by_signal: lost.records,
                bytes: lost.bytes,
                exact: true,
                why: "it held more when it was last written to".into(),
            });
        }
    }
    missing
}

/// Count a segment that cannot be read, and set it aside.
fn bury(store: &Store, segment: Segment, noted: &Noted, why: &Error) -> Quarantined {
    let known = noted.totals.get(&segment.first_id);
    let totals = known.copied().unwrap_or(segment.live);
    tracing::error!(path = %segment.path.display(), %why, entries = totals.entries, "a segment is damaged and is set aside");
    store.lost(&totals, Loss::Corrupt);
    let path = segment.path.clone();
    drop(segment);
    quarantine(&store.options, &path);
    Quarantined {
        path,
        entries: totals.entries,
        records_by_signal: totals.records,
        bytes: totals.bytes,
        exact: known.is_some() && noted.latest,
        why: why.to_string(),
    }
}

/// Delete what is empty, count the rest anew, and go on writing to the last of each class where it has room. To no earlier one, which may have
/// room since its entries were replaced: what is evicted goes by segments, and the newest entries would go with the oldest.
fn take_up(store: &mut Store) {
    let empty: Vec<u64> = store.segments.values().filter(|s| s.live.entries == 0).map(|s| s.first_id).collect();
    empty.into_iter().for_each(|first_id| store.drop_segment(first_id));
    let mut last = [None; KINDS];
    for segment in store.segments.values_mut() {
        segment.slot = store.state.take_slot();
        let has_room = segment.file_bytes < store.options.segment_bytes_max / 2;
        last[usize::from(segment.class)] = has_room.then_some(segment.first_id);
    }
    for first_id in last.into_iter().flatten() {
        if let Some(segment) = store.segments.get_mut(&first_id) {
            segment.writable = true;
        }
    }
    let all: Vec<u64> = store.segments.keys().copied().collect();
    all.into_iter().for_each(|first_id| store.note(first_id));
}

/// Move a damaged segment where a person finds it. Returns what the quarantine holds then.
pub(crate) fn quarantine(options: &Options, path: &Path) -> u64 {
    let to = options.directory.join("quarantine");
    let made = fs::create_dir(&to);
    for path in [path.to_path_buf(), wal_path(path)] {
        let Some(name) = path.file_name() else { continue };
        let moved = made.is_ok() || to.is_dir();
        if !moved || fs::rename(&path, to.join(name)).is_err() {
            remove(&path);
        }
    }
    bound_quarantine(options)
}

/// Keep at most one segment's worth, the latest. Returns the bytes kept.
fn bound_quarantine(options: &Options) -> u64 {
    let mut kept = 0;
    let mut paths = files(&options.directory.join("quarantine")).unwrap_or_default();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    for path in paths {
        let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // Twice, as a segment may be over its size by one commit, and has a WAL.
        if kept + bytes > 2 * options.segment_bytes_max {
            remove(&path);
        } else {
            kept += bytes;
        }
    }
    kept
}

/// Delete all that was set aside. Returns what could not be.
pub(crate) fn empty_quarantine(directory: &Path) -> u64 {
    let paths = files(&directory.join("quarantine")).unwrap_or_default();
    paths.iter().for_each(|path| remove(path));
    paths.iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
}

fn highest_quarantined(directory: &Path) -> u64 {
    let paths = files(&directory.join("quarantine")).unwrap_or_default();
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
    names.filter_map(|name| Some(parse_name(name)?.0)).max().unwrap_or(0)
}

/// Make the reserve; true if it is there. Without space there is none: the buffer works all the same.
pub(crate) fn reserve(directory: &Path, bytes: u64) -> bool {
    let path = directory.join("reserve");
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes) {
        return true;
    }
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0; bytes as usize])?;
        file.sync_data()
    });
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "no space for the reserve");
        remove(&path);
        return false;
    }
    true
}

/// Make names durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| Error::io(directory, &error))
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot delete");
    }
}
