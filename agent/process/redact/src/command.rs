//! Passwords in flags of one letter, which only the program before them explains: `mysql -psecret`, `curl -u user:secret`.
//!
//! Invariant: arguments are looked at that begin within [`ARGUMENTS_BYTES_MAX`] of the program's name; a password goes whole.

use crate::kind::{Find, Kind};
use crate::{mark, name};

const ARGUMENTS_BYTES_MAX: usize = 512;

/// How a program takes a password.
struct Program {
    name: &'static [u8],
    flag: &'static [u8],
    /// The password is part of the flag's own argument, or the next argument.
    joined: bool,
    apart: bool,
    /// It stands after `user:`.
    after_user: bool,
}

const fn program(name: &'static str, flag: &'static str, joined: bool, apart: bool, after_user: bool) -> Program {
    Program { name: name.as_bytes(), flag: flag.as_bytes(), joined, apart, after_user }
}

/// By the beginning of the program's name: mysql also stands for mysqldump and mysqladmin.
static PROGRAMS: [Program; 6] = [
    program("mysql", "-p", true, false, false),
    program("mariadb", "-p", true, false, false),
    program("sshpass", "-p", true, true, false),
    program("redis-cli", "-a", false, true, false),
    program("curl", "-u", true, true, true),
    program("curl", "--user", false, true, true),
];

/// The password among the arguments of the program whose name begins at `start`.
pub(crate) fn find(text: &[u8], start: usize) -> Option<Find> {
    let begins =
        start.checked_sub(1).is_none_or(|before| matches!(text[before], b' ' | b'/' | b'"' | b'\'' | b'\n' | b'('));
    let programs = PROGRAMS.iter().filter(|program| begins && text[start..].starts_with(program.name));
    programs.filter_map(|program| argument(text, start, program)).next()
}

fn argument(all: &[u8], start: usize, program: &Program) -> Option<Find> {
    let text = &all[..all.len().min(start + ARGUMENTS_BYTES_MAX)];
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let mut at = start;
    let mut follows = false;
    while at < text.len() {
        let length = text[at..].iter().take_while(|byte| !blank(byte)).count();
        let word = &text[at..at + length];
        let value = match word.strip_prefix(program.flag) {
            _ if follows => Some(at),
            Some([]) if program.apart => {
                follows = true;
                None
            }
            Some([_, ..]) if program.joined => Some(at + program.flag.len()),
            _ => None,
        };
        if let Some(from) = value {
            let end = all[at + length..].iter().position(blank).map_or(all.len(), |rest| at + length + rest);
            return secret(all, from, end, program.after_user);
        }
        at += length;
        at += text[at..].iter().take_while(|byte| blank(byte)).count();
    }
    None
}

fn secret(text: &[u8], from: usize, to: usize, after_user: bool) -> Option<Find> {
    let value = &text[from..to];
    let skipped = if after_user { memchr::memchr(b':', value)? + 1 } else { 0 };
    let quoted = |byte: &u8| matches!(byte, b'"' | b'\'' | b'`');
    let from = from + skipped;
    let from = from + text[from..to].iter().take_while(|byte| quoted(byte)).count();
    let to = to - text[from..to].iter().rev().take_while(|byte| quoted(byte)).count();
    let value = &text[from..to];
    (!name::says_nothing(value) && mark::mark_len(value) == 0).then(|| Find::new(from, to, Kind::Password))
}
