//! libchdb's C interface, loaded with dlopen.
//!
//! Calls block, and a connection runs one statement at a time; connections to the one data folder of a process work side by side.
//! Invariant: the library is never unloaded, since its threads run until the process ends.
#![allow(unsafe_code, reason = "the engine is a C library")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

type Connection = *mut c_void;
type Answer = *mut c_void;

/// The functions that are used, as chdb.h declares them.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    connect: unsafe extern "C" fn(c_int, *const *const c_char) -> *mut Connection,
    close: unsafe extern "C" fn(*mut Connection),
    query: unsafe extern "C" fn(
        Connection,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *const *const c_char,
        *const usize,
        *const *const c_char,
        *const usize,
        usize,
    ) -> Answer,
    destroy: unsafe extern "C" fn(Answer),
    buffer: unsafe extern "C" fn(Answer) -> *const u8,
    length: unsafe extern "C" fn(Answer) -> usize,
    error: unsafe extern "C" fn(Answer) -> *const c_char,
    elapsed: unsafe extern "C" fn(Answer) -> f64,
    result_rows: unsafe extern "C" fn(Answer) -> u64,
    result_bytes: unsafe extern "C" fn(Answer) -> u64,
    read_rows: unsafe extern "C" fn(Answer) -> u64,
    read_bytes: unsafe extern "C" fn(Answer) -> u64,
    written_rows: unsafe extern "C" fn(Answer) -> u64,
    written_bytes: unsafe extern "C" fn(Answer) -> u64,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Library")
    }
}

impl Library {
    /// Load it, and leave this process' signals alone.
    pub(crate) fn load(path: &Path) -> Result<Library, String> {
        // SAFETY: the file's hash is pinned, so what its initialisers do is known.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        // Its threads outlive every handle.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        macro_rules! symbol {
            ($name:literal) => {
                // SAFETY: the type is that of chdb.h at the pinned version.
                *unsafe { library.get(concat!($name, "\0").as_bytes()) }.map_err(|error| error.to_string())?
            };
        }
        let set_signal_handlers_enabled: unsafe extern "C" fn(c_int) = symbol!("chdb_set_signal_handlers_enabled");
        // SAFETY: takes a flag and has no other precondition.
        unsafe { set_signal_handlers_enabled(0) };
        Ok(Library {
            connect: symbol!("chdb_connect"),
            close: symbol!("chdb_close_conn"),
            query: symbol!("chdb_query_with_params_n"),
            destroy: symbol!("chdb_destroy_query_result"),
            buffer: symbol!("chdb_result_buffer"),
            length: symbol!("chdb_result_length"),
            error: symbol!("chdb_result_error"),
            elapsed: symbol!("chdb_result_elapsed"),
            result_rows: symbol!("chdb_result_rows_read"),
            result_bytes: symbol!("chdb_result_bytes_read"),
            read_rows: symbol!("chdb_result_storage_rows_read"),
            read_bytes: symbol!("chdb_result_storage_bytes_read"),
            written_rows: symbol!("chdb_result_rows_written"),
            written_bytes: symbol!("chdb_result_bytes_written"),
        })
    }

    /// Open a connection; the first one starts the engine. None when the engine refused: it says why on standard error.
    pub(crate) fn connect(&self, arguments: &[CString]) -> Option<Handle> {
        let pointers: Vec<*const c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `count` pointers to strings that live through the call; the engine copies what it keeps.
        let connection = unsafe { (self.connect)(count, pointers.as_ptr()) };
        (!connection.is_null()).then_some(Handle { library: *self, connection })
    }
}

/// An open connection. Dropping it closes it; dropping the last one stops the engine.
#[derive(Debug)]
pub(crate) struct Handle {
    library: Library,
    connection: *mut Connection,
}

// SAFETY: chdb takes a lock of its own on each connection, and no call depends on the thread it comes from.
unsafe impl Send for Handle {}

impl Handle {
    /// Run one statement. `format` is for statements that name none. The parameters are bound, never pasted.
    pub(crate) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &[(String, String)],
    ) -> Result<Output, String> {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: the connection is open (it closes on drop only); every pointer comes with its length and lives through the call.
        let answer = unsafe {
            (self.library.query)(
                *self.connection,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        };
        if answer.is_null() {
            return Err("the engine gave no answer".to_owned());
        }
        let output = Output { library: self.library, answer };
        // SAFETY: the answer is alive; the string is the answer's and is copied before the answer goes.
        let error = unsafe {
            let error = (self.library.error)(answer);
            if error.is_null() { None } else { Some(CStr::from_ptr(error).to_string_lossy().into_owned()) }
        };
        match error {
            Some(error) if !error.is_empty() => Err(error),
            _ => Ok(output),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: opened by `connect`, closed here only.
        unsafe { (self.library.close)(self.connection) };
    }
}

/// A statement's output, in the engine's memory.
#[derive(Debug)]
pub(crate) struct Output {
    library: Library,
    answer: Answer,
}

// SAFETY: an answer belongs to no thread, and nothing changes it once it is there.
unsafe impl Send for Output {}
// SAFETY: as above: all access is reading.
unsafe impl Sync for Output {}

/// What a statement did: ClickHouse's X-ClickHouse-Summary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) elapsed_seconds: f64,
    pub(crate) result_rows: u64,
    pub(crate) result_bytes: u64,
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
}

impl Output {
    pub(crate) fn summary(&self) -> Summary {
        let Output { library, answer } = self;
        // SAFETY: the answer is alive; these read numbers out of it.
        unsafe {
            Summary {
                elapsed_seconds: (library.elapsed)(*answer),
                result_rows: (library.result_rows)(*answer),
                result_bytes: (library.result_bytes)(*answer),
                read_rows: (library.read_rows)(*answer),
                read_bytes: (library.read_bytes)(*answer),
                written_rows: (library.written_rows)(*answer),
                written_bytes: (library.written_bytes)(*answer),
            }
        }
    }
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: buffer and length belong together and live as long as the answer, which `self` holds.
        unsafe {
            let (buffer, length) = ((self.library.buffer)(self.answer), (self.library.length)(self.answer));
            if buffer.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(buffer, length) }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: owned by this value alone.
        unsafe { (self.library.destroy)(self.answer) };
    }
}
