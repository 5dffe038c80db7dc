//! One segment: a SQLite file of entries of one class.
//!
//! `store` appends to it, reads from it and deletes what was acked. Invariant: a row that this module returns is the row
//! that was put: id, class, signal, records, meta and payload are all under the checksum.

use crate::{Entry, EntryId, Error, KINDS, Stored, Waiting, space};
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// "OLLY", so that `file` and a person know whose it is.
const APPLICATION_ID: i64 = 0x4f4c_4c59;
/// The format written here; older ones must stay readable. It is in the file's name too: there no flipped bit of a
/// damaged file can pass for a later version.
pub(crate) const FORMAT: i64 = 1;

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
    /// Acked, and still to be deleted.
    pub(crate) acked: Vec<u64>,
    /// The file as large as the next checkpoint makes it.
    pub(crate) file_bytes: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) oldest_unix_nano: u64,
    /// Turn of the last use of the connection.
    pub(crate) used: u64,
    pub(crate) read_failures: u32,
    /// Where `state` counts it.
    pub(crate) slot: Option<usize>,
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
    pub(crate) fn new(directory: &Path, first_id: u64, class: u8) -> Segment {
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
            acked: Vec::new(),
            file_bytes: 0,
            wal_bytes: 0,
            oldest_unix_nano: 0,
            used: 0,
            read_failures: 0,
            slot: None,
            wal_named: false,
        }
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file_bytes + self.wal_bytes
    }

    /// Create the file.
    pub(crate) fn create(&mut self) -> Result<(), Error> {
        let created = (|| {
            let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_CREATE)?;
            connection.pragma_update(None, "page_size", space::PAGE_BYTES.cast_signed())?;
            // Segments of the first release were made without, and stay so: what is free in them is used again or goes with them.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
            wal(&connection)?;
            connection.execute_batch(CREATE)?;
            Ok(connection)
        })();
        self.connection = Some(created.map_err(|error| Error::sqlite(&self.path, &error))?);
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
        if let Some(connection) = self.connection.take() {
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
        let pages = self.connection.as_ref().and_then(|c| integer(c, "PRAGMA page_count").ok());
        self.file_bytes = match pages {
            Some(pages) => file.max(pages.unsigned_abs() * space::PAGE_BYTES),
            None if self.wal_bytes > 0 => file.max(self.file_bytes),
            None => file,
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

    /// Delete rows, acked or replaced, and insert new ones in one synced transaction; all or nothing.
    pub(crate) fn write(&mut self, delete: &[u64], new: &[New<'_>]) -> Result<(), Error> {
        let class = self.class;
        let path = self.path.clone();
        let connection = self.connection()?;
        let written = (|| {
            let transaction = connection.unchecked_transaction()?;
            delete_rows(&transaction, delete)?;
            {
                let mut insert = transaction.prepare("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)")?;
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
            // Not committed, it rolls back when it goes out of scope.
            transaction.commit()
        })();
        self.measure();
        written.map_err(|error| Error::sqlite(&path, &error))?;
        self.name_wal()
    }

    /// Names must be as durable as what is committed under them, and the first write of a connection makes a WAL. SQLite syncs the
    /// folder then, too, but takes no notice when that fails.
    fn name_wal(&mut self) -> Result<(), Error> {
        if !self.wal_named {
            crate::recovery::sync_directory(self.path.parent().unwrap_or(Path::new(".")))?;
            self.wal_named = true;
        }
        Ok(())
    }

    /// Delete acked rows in a transaction of their own.
    pub(crate) fn delete(&mut self, ids: &[u64]) -> Result<(), Error> {
        self.write(ids, &[])
    }

    /// Move the WAL into the file and empty it.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let busy = integer(self.connection()?, "PRAGMA wal_checkpoint(TRUNCATE)");
        self.measure();
        busy.map(|_| ()).map_err(|error| Error::sqlite(path, &error))
    }

    /// Read one row and check it.
    pub(crate) fn read(&mut self, id: u64) -> Result<Row, Error> {
        let class = self.class;
        let path = self.path.clone();
        let row = self
            .connection()?
            .query_row(
                "SELECT signal, records, checksum, meta, payload FROM entries WHERE id = ?",
                [id.cast_signed()],
                |row| {
                    let bytes = |index| -> rusqlite::Result<Bytes> {
                        Ok(row.get_ref(index)?.as_blob().map(Bytes::copy_from_slice)?)
                    };
                    let (meta, payload) = (bytes(3)?, bytes(4)?);
                    let (signal, records, expected) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get(2)?);
                    Ok((signal, records, expected, meta, payload))
                },
            )
            .optional()
            .map_err(|error: rusqlite::Error| Error::sqlite(path, &error))?;
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
                let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({})", space::VACUUM_PAGES))?;
                let mut steps = vacuum.query([])?;
                while steps.next()?.is_some() {}
                Ok(integer(connection, "PRAGMA page_count")? < pages)
            })();
            let shrunk = shrunk.map_err(|error: rusqlite::Error| Error::sqlite(path, &error))?;
            self.measure();
            if !shrunk || self.wal_bytes > space::FLUSH_BYTES_MAX / 2 {
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
            .query_row(
                "SELECT id FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT 1",
                [id.cast_signed(), last.cast_signed()],
                |row| row.get::<_, i64>(0),
            )
            .optional()
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
        self.connection = None;
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
    let mut delete = connection.prepare("DELETE FROM entries WHERE id = ?")?;
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
    while rows.next()?.is_some() {}
    if mode != "wal" {
        return Err(rusqlite::Error::InvalidParameterName(format!("journal mode {mode}, wal is needed")));
    }
    connection.pragma_update(None, "wal_autocheckpoint", 0)
}

fn integer(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.query_row(sql, [], |row| row.get(0))
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
