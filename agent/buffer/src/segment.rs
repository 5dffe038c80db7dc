//! One segment: a SQLite file of entries of one class.
//!
//! `store` appends to it, reads from it and deletes what was acked. Invariant: a row that this module returns is the row
//! that was put: id, class, signal, records, meta and payload are all under the checksum.

use crate::space::{Space, VACUUM_PAGES};
use crate::{Entry, EntryId, Error, KINDS, Stored, Waiting};
use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::fs::File;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// "OLLY", so that `file` and a person know whose it is.
const APPLICATION_ID: i64 = 0x4f4c_4c59;
/// The format written here; older ones must stay readable. It is in the file's name too: there no flipped bit of a
/// damaged file can pass for a later version.
pub(crate) const FORMAT: i64 = 1;

/// A segment that is there at the second idle moment after it was full, for a second at least, lives on.
pub(crate) const IDLES_TO_LIVE_ON: u8 = 2;

/// `meta` and `payload` come last: the lengths of all, which recovery reads, then lie in the row's first page.
const CREATE: &str = "CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    put_unix_nano INTEGER NOT NULL,
    signal INTEGER NOT NULL,
    records INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    meta BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT";

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    /// Payload and meta.
    pub(crate) bytes: u64,
    /// By signal.
    pub(crate) records: [u64; KINDS],
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.records.iter_mut().zip(other.records).for_each(|(mine, more)| *mine += more);
    }

    /// Never below zero: a damaged row may claim more than was put.
    pub(crate) fn subtract(&mut self, other: &Totals) {
        self.entries = self.entries.saturating_sub(other.entries);
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.records.iter_mut().zip(other.records).for_each(|(mine, less)| *mine = mine.saturating_sub(less));
    }

    pub(crate) fn one(signal: u8, records: u64, bytes: u64) -> Totals {
        let mut totals = Totals { entries: 1, bytes, records: [0; KINDS] };
        totals.records[usize::from(signal) % KINDS] = records;
        totals
    }
}

impl Entry {
    /// What is limited and counted.
    pub(crate) fn size(&self) -> u64 {
        (self.meta.len() + self.payload.len()) as u64
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals::one(self.signal, u64::from(self.records), self.size())
    }
}

/// An entry as it is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    pub(crate) id: u64,
    pub(crate) put_unix_nano: u64,
    pub(crate) entry: &'a Entry,
}

/// A segment as the store keeps it: fixed size, whatever it holds.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first_id: u64,
    pub(crate) class: u8,
    pub(crate) path: PathBuf,
    pub(crate) connection: Option<Connection>,
    /// Not acked.
    pub(crate) live: Totals,
    /// Never leased by this process: how many, and the first of them.
    pub(crate) unleased: u64,
    pub(crate) head: Option<u64>,
    /// Left where they are until the next open.
    pub(crate) left: u64,
    /// The highest id committed; rows above it are remains of a commit whose sync failed.
    pub(crate) last: u64,
    pub(crate) writable: bool,
    /// Idle moments of the writer since it was full.
    pub(crate) idles: u8,
    /// A write or a sync of it failed: nothing is moved in it that need not be.
    pub(crate) failed: bool,
    /// Acked, and still to be deleted.
    pub(crate) acked: Vec<u64>,
    /// The file as large as the next checkpoint makes it.
    pub(crate) file_bytes: u64,
    pub(crate) wal_bytes: u64,
    /// Of the WAL, what a checkpoint still has to move; the rest is written over.
    pub(crate) wal_used: u64,
    pub(crate) oldest_unix_nano: u64,
    /// Turn of the last use of the connection.
    pub(crate) used: u64,
    pub(crate) read_failures: u32,
    /// Where `state` counts it.
    pub(crate) slot: Option<usize>,
    /// That of new segments; of an older one the file may have smaller pages.
    pub(crate) space: Space,
    /// The name of this connection's WAL is on disk.
    pub(crate) wal_named: bool,
}

/// What reading a row gave.
#[derive(Debug)]
pub(crate) enum Row {
    Good(Box<Stored>),
    /// Its columns say so much; its bytes are not what was put.
    Damaged(Totals),
    Missing,
}

impl Segment {
    pub(crate) fn new(directory: &Path, first_id: u64, class: u8, space: Space) -> Segment {
        Segment {
            first_id,
            class,
            path: directory.join(file_name(first_id, class)),
            connection: None,
            live: Totals::default(),
            unleased: 0,
            left: 0,
            head: None,
            last: 0,
            writable: false,
            failed: false,
            idles: 0,
            acked: Vec::new(),
            file_bytes: 0,
            wal_bytes: 0,
            wal_used: 0,
            oldest_unix_nano: 0,
            used: 0,
            read_failures: 0,
            slot: None,
            space,
            wal_named: false,
        }
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file_bytes + self.wal_bytes
    }

    /// It lives on: nothing comes to it any more, and much of it is in its WAL.
    pub(crate) fn has_wal_to_move(&self) -> bool {
        !self.writable && !self.failed && self.wal_bytes > 0 && self.idles >= IDLES_TO_LIVE_ON
    }

    /// Create the file, and sync it whole: what a crash leaves of it before holds nothing. Its name is synced with the first commit.
    pub(crate) fn create(&mut self) -> Result<(), Error> {
        let created = (|| {
            let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_CREATE)?;
            // One sync of it all below, in place of three for each of these.
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.query_row("PRAGMA journal_mode = MEMORY", [], |_| Ok(()))?;
            connection.pragma_update(None, "page_size", self.space.page_bytes.cast_signed())?;
            // Segments of the first release were made without, and stay so: what is free in them is used again or goes with them.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
            connection.execute_batch(CREATE)?;
            wal(&connection)
        })();
        created.map_err(|error| Error::sqlite(&self.path, &error))?;
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced.map_err(|error| Error::io(&self.path, &error))?;
        self.connection()?;
        self.writable = true;
        self.measure();
        Ok(())
    }

    /// The open connection, opened now if need be.
    pub(crate) fn connection(&mut self) -> Result<&Connection, Error> {
        if self.connection.is_none() {
            let opened = connect(&self.path, OpenFlags::empty()).and_then(|connection| {
                wal(&connection)?;
                Ok(connection)
            });
            self.connection = Some(opened.map_err(|error| Error::sqlite(&self.path, &error))?);
            self.wal_named = false;
        }
        self.connection.as_ref().ok_or(Error::Closed)
    }

    /// Close the connection: SQLite checkpoints and removes the WAL if it can.
    pub(crate) fn disconnect(&mut self) {
        if self.connection.take().is_some() {
            self.measure();
        }
    }

    /// Close the connection and leave the WAL as it is.
    pub(crate) fn park(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Refused, it only costs time.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            drop(connection);
            self.measure();
        }
    }

    /// Learn the file sizes. What cannot be learnt stays as it was: the sizes only serve the cap.
    pub(crate) fn measure(&mut self) {
        let length = |path: &Path| std::fs::metadata(path).map(|m| m.len());
        self.wal_bytes = match length(&wal_path(&self.path)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
            Err(_) => self.wal_bytes,
        };
        let file = length(&self.path).unwrap_or(self.file_bytes);
        let asked = |sql| self.connection.as_ref().and_then(|c| integer(c, sql).ok()).map(i64::unsigned_abs);
        let pages = asked("PRAGMA page_count").zip(asked("PRAGMA page_size"));
        self.file_bytes = match pages {
            Some((count, bytes)) => file.max(count * bytes),
            None if self.wal_bytes > 0 => file.max(self.file_bytes),
            None => file,
        };
        let log = self.connection.as_ref().and_then(|connection| {
            let mut look = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)").ok()?;
            look.query_row([], |row| Ok((row.get(1)?, row.get(2)?))).ok()
        });
        self.wal_used = match log {
            Some((written, moved)) if written != moved => {
                i64::max(written, 0).unsigned_abs() * self.space.frame_bytes()
            }
            Some(_) => 0,
            None => self.wal_bytes,
        };
    }

    /// Count every row of a file found on opening. After an error the counts are what could be read.
    pub(crate) fn load(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let mut totals = Totals::default();
        let mut ends = None;
        let connection = self.connection()?;
        let scanned = (|| {
            for (pragma, expected) in [("PRAGMA application_id", APPLICATION_ID), ("PRAGMA user_version", FORMAT)] {
                let found = integer(connection, pragma)?;
                if found != expected {
                    return Err(rusqlite::Error::IntegralValueOutOfRange(0, found));
                }
            }
            // A version of the format that may only be read: nothing could be put or deleted.
            if connection.is_readonly("main")? {
                return Err(rusqlite::Error::InvalidQuery);
            }
            let mut statement = connection.prepare(
                "SELECT id, signal, records, length(meta) + length(payload), put_unix_nano FROM entries ORDER BY id",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let number = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
                let (id, time) = (number(0)?, number(4)?);
                totals.add(&Totals::one((number(1)? % KINDS as u64) as u8, number(2)?, number(3)?));
                ends = Some(ends.map_or((id, id, time), |(first, _, time)| (first, id, time)));
            }
            Ok(())
        })();
        self.live = totals;
        self.unleased = totals.entries;
        if let Some((first, last, time)) = ends {
            (self.head, self.last, self.oldest_unix_nano) = (Some(first), last, time);
        }
        self.measure();
        scanned.map_err(|error| Error::sqlite(path, &error))
    }

    /// Delete the rows that are not what was put, and count anew: what they say of themselves is not what is lost with them.
    pub(crate) fn drop_damaged(&mut self) -> Result<(), Error> {
        let mut damaged = Vec::new();
        let mut next = self.head;
        while let Some(id) = next {
            if !matches!(self.read(id), Ok(Row::Good(_))) {
                damaged.push(id);
            }
            next = self.after(id)?;
        }
        if damaged.is_empty() {
            return Ok(());
        }
        self.delete(&damaged)?;
        self.load()
    }

    /// Put `new` rows in the place of those `replaced`, and delete those `acked`, in one synced transaction; all or nothing.
    pub(crate) fn write(&mut self, replaced: &[u64], new: &[New<'_>], acked: &[u64]) -> Result<(), Error> {
        let class = self.class;
        let path = self.path.clone();
        self.name_wal()?;
        let connection = self.connection()?;
        let written = (|| {
            let transaction = connection.unchecked_transaction()?;
            delete_rows(&transaction, replaced)?;
            {
                let mut insert = transaction.prepare_cached("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)")?;
                for New { id, put_unix_nano, entry } in new {
                    insert.execute(params![
                        id.cast_signed(),
                        put_unix_nano.cast_signed(),
                        entry.signal,
                        entry.records,
                        checksum(*id, class, entry).cast_signed(),
                        &entry.meta[..],
                        &entry.payload[..],
                    ])?;
                }
            }
            // After the new ones: they take pages that an earlier transaction freed, of which SQLite need not read what was in them.
            delete_rows(&transaction, acked)?;
            // Not committed, it rolls back when it goes out of scope.
            transaction.commit()
        })();
        self.measure();
        written.map_err(|error| Error::sqlite(&path, &error))
    }

    /// Names must be as durable as what is committed under them, and a connection makes a WAL when it opens. Before the commit: one that is
    /// refused because of its name must not be there. SQLite syncs the folder with the first, too, but takes no notice when that fails.
    fn name_wal(&mut self) -> Result<(), Error> {
        self.connection()?;
        if !self.wal_named {
            crate::recovery::sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
            self.wal_named = true;
        }
        Ok(())
    }

    /// Delete acked rows in a transaction of their own.
    pub(crate) fn delete(&mut self, ids: &[u64]) -> Result<(), Error> {
        self.write(&[], &[], ids)
    }

    /// Move the WAL into the file and empty it.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Error> {
        self.move_wal("PRAGMA wal_checkpoint(TRUNCATE)")
    }

    /// Move the WAL into the file; the next commit writes over it from its begin. What a file system has given room to before is
    /// synced faster.
    pub(crate) fn restart_wal(&mut self) -> Result<(), Error> {
        self.move_wal("PRAGMA wal_checkpoint(PASSIVE)")
    }

    fn move_wal(&mut self, sql: &str) -> Result<(), Error> {
        let path = self.path.clone();
        let busy = integer(self.connection()?, sql);
        self.measure();
        busy.map(|_| ()).map_err(|error| Error::sqlite(path, &error))
    }

    /// Read one row and check it.
    pub(crate) fn read(&mut self, id: u64) -> Result<Row, Error> {
        let class = self.class;
        let path = self.path.clone();
        let read = |row: &rusqlite::Row<'_>| {
            let bytes =
                |index| -> rusqlite::Result<Bytes> { Ok(row.get_ref(index)?.as_blob().map(Bytes::copy_from_slice)?) };
            let (meta, payload) = (bytes(3)?, bytes(4)?);
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get(2)?, meta, payload))
        };
        let row = self
            .connection()?
            .prepare_cached("SELECT signal, records, checksum, meta, payload FROM entries WHERE id = ?")
            .and_then(|mut statement| statement.query_row([id.cast_signed()], read).optional())
            .map_err(|error| Error::sqlite(path, &error))?;
        let Some((signal, records, expected, meta, payload)) = row else { return Ok(Row::Missing) };
        let expected: i64 = expected;
        let size = (meta.len() + payload.len()) as u64;
        let damaged =
            Row::Damaged(Totals::one((signal.unsigned_abs() % KINDS as u64) as u8, records.unsigned_abs(), size));
        let (Ok(signal), Ok(records)) = (u8::try_from(signal), u32::try_from(records)) else { return Ok(damaged) };
        let entry = Entry { class, signal, records, meta, payload };
        if checksum(id, class, &entry) != expected.cast_unsigned() {
            return Ok(damaged);
        }
        Ok(Row::Good(Box::new(Stored { id: EntryId(id), redelivered: false, entry })))
    }

    /// What rows of a signal say of themselves, `count` at most from `from` on.
    pub(crate) fn list(&mut self, signal: u8, from: u64, count: usize) -> Result<Vec<Waiting>, Error> {
        let (path, first_id, class, last) = (self.path.clone(), self.first_id, self.class, self.last);
        let connection = self.connection()?;
        let listed = (|| {
            let mut statement = connection.prepare(
                "SELECT id, put_unix_nano, records, length(meta) + length(payload), meta FROM entries
                 WHERE id >= ? AND id <= ? AND signal = ? ORDER BY id LIMIT ?",
            )?;
            let range = params![from.cast_signed(), last.cast_signed(), signal, count as i64];
            let rows = statement.query_map(range, |row| {
                let number = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
                Ok(Waiting {
                    segment: first_id,
                    id: EntryId(number(0)?),
                    class,
                    signal,
                    records: u32::try_from(number(2)?).unwrap_or(u32::MAX),
                    put_unix_nano: number(1)?,
                    bytes: number(3)?,
                    meta: Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<Waiting>>>()
        })();
        listed.map_err(|error| Error::sqlite(path, &error))
    }

    /// Give pages that nothing uses back to the file system.
    pub(crate) fn shrink(&mut self) -> Result<(), Error> {
        self.checkpoint()?;
        loop {
            let path = self.path.clone();
            let connection = self.connection()?;
            let shrunk = (|| {
                let pages = integer(connection, "PRAGMA page_count")?;
                let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({})", VACUUM_PAGES))?;
                let mut steps = vacuum.query([])?;
                while steps.next()?.is_some() {}
                Ok(integer(connection, "PRAGMA page_count")? < pages)
            })();
            let shrunk = shrunk.map_err(|error: rusqlite::Error| Error::sqlite(path, &error))?;
            self.measure();
            if !shrunk || self.wal_bytes > self.space.flush_bytes_max() / 2 {
                self.checkpoint()?;
            }
            if !shrunk {
                return Ok(());
            }
        }
    }

    /// The first committed id above `id`.
    pub(crate) fn after(&mut self, id: u64) -> Result<Option<u64>, Error> {
        if id >= self.last {
            return Ok(None);
        }
        let (path, last) = (self.path.clone(), self.last);
        self.connection()?
            .prepare_cached("SELECT id FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT 1")
            .and_then(|mut statement| {
                statement.query_row([id.cast_signed(), last.cast_signed()], |row| row.get::<_, i64>(0)).optional()
            })
            .map(|id| id.map(i64::cast_unsigned))
            .map_err(|error| Error::sqlite(path, &error))
    }

    /// Whether a row was committed.
    pub(crate) fn contains(&mut self, id: u64) -> Result<bool, Error> {
        Ok(id > 0 && self.after(id - 1)? == Some(id))
    }

    /// When the oldest row was put.
    pub(crate) fn oldest(&mut self) -> Option<u64> {
        let time = integer(self.connection().ok()?, "SELECT put_unix_nano FROM entries ORDER BY id LIMIT 1");
        time.ok().map(i64::cast_unsigned)
    }

    /// Delete the files.
    pub(crate) fn unlink(mut self) {
        self.park();
        // The WAL second: a WAL alone means nothing, a segment without its WAL would look whole.
        for path in [self.path.clone(), wal_path(&self.path)] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot delete a segment; it is looked at again on the next start");
            }
        }
    }
}

fn delete_rows(connection: &Connection, ids: &[u64]) -> rusqlite::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut delete = connection.prepare_cached("DELETE FROM entries WHERE id = ?")?;
    ids.iter().try_for_each(|id| delete.execute([id.cast_signed()]).map(|_| ()))
}

fn connect(path: &Path, create: OpenFlags) -> rusqlite::Result<Connection> {
    // No mutex: one thread has it. No symbolic link: the directory is ours alone.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = Connection::open_with_flags(path, flags | create)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -128)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// WAL, checkpointed only when asked to: the cap needs to know when the file grows.
fn wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut change = connection.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = change.query([])?;
    let mode: String = rows.next()?.map_or(Ok(String::new()), |row| row.get(0))?;
    // To the end: the change is committed after the row was given, and a rollback journal, which it stays when that fails, may
    // come back after a loss of power and take a commit back.
    // A new segment does it twice, so that it takes two failures to get past both.
    while rows.next()?.is_some() {}
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode {mode}, wal is needed")));
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

fn integer(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

fn checksum(id: u64, class: u8, entry: &Entry) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(&[FORMAT as u8, class, entry.signal]);
    hasher.update(&entry.records.to_le_bytes());
    hasher.update(&(entry.meta.len() as u64).to_le_bytes());
    hasher.update(&entry.meta);
    hasher.update(&entry.payload);
    hasher.digest()
}

/// Decimal and padded, so that a listing is in order.
fn file_name(first_id: u64, class: u8) -> String {
    format!("{first_id:020}-{class}.segment{FORMAT}")
}

/// First id, class and format of a segment's file name.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u8, i64)> {
    let (stem, format) = name.split_once(".segment")?;
    let (id, class) = stem.split_once('-')?;
    let (first_id, class, format) = (id.parse().ok()?, class.parse().ok()?, format.parse().ok()?);
    (usize::from(class) < KINDS).then_some((first_id, class, format))
}

/// The write-ahead log that belongs to a segment.
pub(crate) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_whose_name_cannot_be_synced_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut segment = Segment::new(directory.path(), 1, 0, Space::new(256 << 10));
        segment.create().unwrap();
        assert!(wal_path(&segment.path).exists(), "its name is synced before the first commit");
        let entry = Entry { class: 0, signal: 0, records: 1, meta: Bytes::new(), payload: Bytes::from_static(b"x") };
        let new = [New { id: 1, put_unix_nano: 1, entry: &entry }];
        let path = std::mem::replace(&mut segment.path, directory.path().join("gone/segment"));
        segment.write(&[], &new, &[]).unwrap_err();
        segment.path = path;
        segment.disconnect();
        segment.load().unwrap();
        assert_eq!(segment.live.entries, 0);
        segment.write(&[], &new, &[]).unwrap();
        segment.load().unwrap();
        assert_eq!(segment.live.entries, 1);
    }
}
