//! Which lines belong together: a stack trace is one record with the line above it, whatever language it is of.
//!
//! An input asks [`Shape::head`] for a record's first line and [`Shape::with`] for each line after it; `None` begins the next
//! record. Only how lines look decides, never a setting: an indented line continues what is above it, and so do the lines that a
//! runtime prints without indentation (`Caused by:`, the exception below a Python traceback, Go's goroutines, ...). Invariant:
//! pure, no allocation, a few comparisons for a line that looks like nothing of all this; blank lines are the caller's to leave out.

/// What a record is so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One line that says nothing about what follows.
    Line,
    /// One line that is whole by itself, as a JSON object: nothing continues it.
    Whole,
    /// One line that is indented: what it continues was not seen, and a file may have only such lines. They stay apart.
    Indented,
    /// One line that names an exception.
    Exception,
    /// Several lines, or the rest of a record whose beginning was cut off by a limit.
    Body,
    /// Within a Python traceback: the first line that is not indented is its exception.
    Traceback,
    /// A Python traceback with its exception.
    Raised,
    /// Between two Python tracebacks of one chain.
    Chained,
    /// Within what Go prints of its goroutines.
    Goroutines,
    /// The next line belongs to it, however it looks.
    Unfinished,
}

use Shape::{Body, Chained, Exception, Goroutines, Indented, Line, Raised, Traceback, Unfinished, Whole};

const TRACEBACK: &[u8] = b"Traceback (most recent call last):";

impl Shape {
    /// Of a record whose first line is `line`.
    pub fn head(line: &[u8]) -> Shape {
        match line.first() {
            Some(b' ' | b'\t') => Indented,
            Some(b'{') if line.ends_with(b"}") => Whole,
            Some(b'p') if line.starts_with(b"panic: ") => Goroutines,
            Some(b'f') if line.starts_with(b"fatal error: ") => Goroutines,
            Some(b'S') if line.starts_with(b"SIG") && line.contains(&b':') => Goroutines,
            Some(b'g') if is_goroutine(line) => Goroutines,
            Some(b't') if is_rust_panic(line) => Unfinished,
            Some(b'T') if line.starts_with(TRACEBACK) => Traceback,
            Some(first) if first.is_ascii_alphabetic() && is_exception(line) => Exception,
            _ => Line,
        }
    }

    /// With one line more; `None` if that line begins another record.
    pub fn with(self, line: &[u8]) -> Option<Shape> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return match self {
                Indented | Whole => None,
                Traceback | Raised | Chained | Goroutines => Some(self),
                // Below a caret that points into code stands what is wrong there.
                _ if points(line) => Some(Unfinished),
                Unfinished => Some(Unfinished),
                Line | Exception | Body => Some(Body),
            };
        }
        match self {
            Whole => None,
            Unfinished => Some(Body),
            Traceback => Some(Raised),
            Goroutines if is_of_goroutines(line) => Some(Goroutines),
            Raised if is_chain(line) => Some(Chained),
            Raised if line.starts_with(TRACEBACK) => None,
            Line if is_exception(line) => Some(Body),
            _ => continuation(line),
        }
    }

    /// Whether nothing can continue the record, so that it need not wait for its next line.
    pub fn is_whole(self) -> bool {
        self == Whole
    }
}

/// Lines that continue any record although they are not indented.
fn continuation(line: &[u8]) -> Option<Shape> {
    let begins = |text: &str| line.starts_with(text.as_bytes());
    match line.first()? {
        b'T' if line.starts_with(TRACEBACK) => Some(Traceback),
        b'g' if is_goroutine(line) => Some(Goroutines),
        b'C' if begins("Caused by: ") => Some(Body),
        b'S' if begins("Suppressed: ") || begins("Stack trace:") => Some(Body),
        b's' if begins("stack backtrace:") => Some(Body),
        b'n' if begins("note: run with `RUST_BACKTRACE=") || begins("note: Some details are omitted") => Some(Body),
        b'.' if begins("... ") && line.ends_with(b" more") => Some(Body),
        // .NET.
        b'-' if begins("---> ") || begins("--- End of ") => Some(Body),
        // PHP, gdb, sanitizers: `#0 /srv/shop.php(12): buy()`.
        b'#' if line[1..]
            .iter()
            .position(|byte| !byte.is_ascii_digit())
            .is_some_and(|at| at > 0 && line[1 + at] == b' ') =>
        {
            Some(Body)
        }
        // The end of something that was printed over several lines.
        b'}' | b']' | b')' if line.iter().all(|byte| b"}]);, ".contains(byte)) => Some(Body),
        _ if is_ruby_frame(line) => Some(Body),
        _ => None,
    }
}

/// `During handling of the above exception, another exception occurred:` and its kin.
fn is_chain(line: &[u8]) -> bool {
    line.starts_with(b"During handling of the above exception")
        || line.starts_with(b"The above exception was the direct cause")
}

/// `thread 'main' panicked at src/main.rs:2:5:`, with the message in the next line.
fn is_rust_panic(line: &[u8]) -> bool {
    line.starts_with(b"thread '") && line.ends_with(b":") && line.windows(13).any(|window| window == b" panicked at ")
}

/// `    ^`, `  ~~^~~`.
fn points(line: &[u8]) -> bool {
    line.contains(&b'^') && line.iter().all(|byte| b" \t^~".contains(byte))
}

/// `goroutine 7 [running]:`.
fn is_goroutine(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"goroutine ") else { return false };
    rest.first().is_some_and(u8::is_ascii_digit) && line.ends_with(b":")
}

/// Headings, functions and registers of Go's dumps; the places in files are indented.
fn is_of_goroutines(line: &[u8]) -> bool {
    const HEADINGS: [&str; 8] = [
        "goroutine ",
        "created by ",
        "[signal ",
        "[originating ",
        "exit status ",
        "runtime: ",
        "runtime stack:",
        "PC=0x",
    ];
    if HEADINGS.iter().any(|heading| line.starts_with(heading.as_bytes())) {
        return true;
    }
    // `rax    0x0`.
    let name = line.iter().take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()).count();
    if (1..=6).contains(&name) && line[name..].trim_ascii_start().starts_with(b"0x") {
        return true;
    }
    // `net/http.(*conn).serve(0xc0000b2000, {0x6f3c20, 0xc0000a4000})`: a path without spaces before the arguments.
    let name = line.iter().take_while(|byte| **byte != b'(' && !byte.is_ascii_whitespace()).count();
    line.get(name) == Some(&b'(') && line[..name].contains(&b'.') && line.ends_with(b")")
}

/// `java.lang.IllegalStateException: no stock`: a dotted name that ends as exceptions' names do, and its message.
fn is_exception(line: &[u8]) -> bool {
    let name = line.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(byte)).count();
    let (name, rest) = line.split_at(name);
    let is_named = [&b"Exception"[..], b"Error", b"Throwable", b"Failure"].iter().any(|ending| name.ends_with(ending));
    is_named && name.contains(&b'.') && (rest.is_empty() || rest.starts_with(b": ") || rest.starts_with(b" ("))
}

/// ``app/models/order.rb:7:in `block in pay'``. The frame that ends with a message is where the exception begins.
fn is_ruby_frame(line: &[u8]) -> bool {
    if !line.ends_with(b"'") {
        return false;
    }
    let place = line.iter().take_while(|byte| !byte.is_ascii_whitespace()).count();
    let Some(at) = line[..place].windows(4).position(|window| window == b".rb:") else { return false };
    let number = line[at + 4..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    number > 0 && line[at + 4 + number..].starts_with(b":in ")
}

#[cfg(test)]
mod tests;
