//! One pass over a query: its text without literals and comments, and its words to the [`Summary`].
//!
//! Lexical rules: PostgreSQL's manual, "Lexical Structure"; MySQL's, "Language Structure". Lists of values after `IN` and `VALUES`
//! are folded, so that the text does not depend on their number. Invariant: each byte is looked at a small constant number of
//! times, and what no rule recognises as the end of a literal stays within it.

use super::summary::Summary;
use super::{Dialect, TEXT_BYTES_MAX};
use crate::Context;
use std::ops::Range;

/// Read a query: the text, its summary, and the trace context of a comment (sqlcommenter).
pub(super) fn read(sql: &[u8], is_cut: bool, dialect: Dialect) -> (Vec<u8>, Summary, Option<Context>) {
    let mut reader = Reader {
        sql,
        at: 0,
        is_cut,
        is_mysql: dialect != Dialect::PostgreSql,
        has_escapes: dialect == Dialect::MySql,
        text: Vec::with_capacity(sql.len().min(TEXT_BYTES_MAX)),
        is_space_due: false,
        depth: 0,
        before: Before::Other,
        list: None,
        group: None,
        summary: Summary::new(),
        context: None,
    };
    while reader.at < sql.len() && reader.text.len() < TEXT_BYTES_MAX {
        reader.token();
    }
    if is_cut || reader.at < sql.len() {
        reader.summary.cut();
        reader.fold_group();
    }
    (reader.text, reader.summary, reader.context)
}

struct Reader<'a> {
    sql: &'a [u8],
    at: usize,
    is_cut: bool,
    is_mysql: bool,
    /// A backslash escapes in every string.
    has_escapes: bool,
    text: Vec<u8>,
    is_space_due: bool,
    depth: u32,
    before: Before,
    /// The list of values that is open, by its depth.
    list: Option<List>,
    /// The first group of `VALUES`, while others like it follow.
    group: Option<Range<usize>>,
    summary: Summary,
    context: Option<Context>,
}

/// The token before, where it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// `IN`.
    In,
    /// `VALUES`, or the comma after a group of it.
    Values,
    /// A group of `VALUES`.
    Group,
    /// A string in which a backslash escapes; one that follows is its continuation.
    Escaped,
    /// A placeholder or a literal in an open list; its comma.
    Item,
    ItemComma,
    /// A name, a literal, or a closing parenthesis: a dot behind it begins no number.
    Operand,
    Other,
}

#[derive(Clone, Copy)]
struct List {
    depth: u32,
    /// Where its parenthesis stands in the text.
    start: usize,
    is_values: bool,
}

impl Reader<'_> {
    fn token(&mut self) {
        let rest = &self.sql[self.at..];
        let next = rest.get(1).copied().unwrap_or(0);
        match rest[0] {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c => {
                (self.at, self.is_space_due) = (self.at + 1, true);
            }
            b'-' if next == b'-' && (!self.is_mysql || rest.get(2).is_none_or(|byte| *byte <= b' ')) => {
                self.line_comment()
            }
            b'#' if self.is_mysql => self.line_comment(),
            b'/' if next == b'*' => self.comment(),
            b'*' if next == b'/' && self.is_mysql => {
                // The end of a comment whose text MySQL executes.
                (self.at, self.is_space_due) = (self.at + 2, true);
            }
            b'\'' => self.string(b'\'', self.has_escapes || self.before == Before::Escaped),
            b'"' if self.is_mysql => self.string(b'"', self.has_escapes),
            b'"' => self.quoted(b'"'),
            b'`' => self.quoted(b'`'),
            b'$' if !self.is_mysql => self.dollar(),
            b'0'..=b'9' => self.number(),
            b'.' if next.is_ascii_digit() && self.before != Before::Operand => self.number(),
            b'?' => self.placeholder(b"?", 1),
            byte if is_word(byte) => self.word(),
            byte => self.symbol(byte),
        }
    }

    /// Put out a token.
    fn emit(&mut self, token: &[u8]) {
        if std::mem::take(&mut self.is_space_due) && !self.text.is_empty() {
            self.text.push(b' ');
        }
        self.text.extend_from_slice(token);
    }

    fn line_comment(&mut self) {
        let rest = &self.sql[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        self.find_context(&rest[..length]);
        (self.at, self.is_space_due) = (self.at + length, true);
    }

    fn comment(&mut self) {
        let rest = &self.sql[self.at..];
        self.is_space_due = true;
        let executed = [b"/*!".as_slice(), b"/*M!"].into_iter().find(|start| rest.starts_with(start));
        if let Some(start) = executed.filter(|_| self.is_mysql) {
            let digits = rest[start.len()..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            self.at += start.len() + digits;
            return;
        }
        let (mut depth, mut at) = (0_u32, 0);
        while let Some(pair) = rest.get(at..at + 2) {
            match pair {
                // In MySQL comments do not nest.
                b"/*" if !self.is_mysql || at == 0 => (depth, at) = (depth + 1, at + 2),
                b"*/" => (depth, at) = (depth - 1, at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        let end = if depth == 0 { at } else { rest.len() };
        self.find_context(&rest[..end]);
        self.at += end;
    }

    /// `traceparent='00-...'` in a comment.
    fn find_context(&mut self, comment: &[u8]) {
        const KEY: &[u8] = b"traceparent='";
        let at = comment.windows(KEY.len()).position(|window| window == KEY);
        if let Some(value) = at.and_then(|at| comment.get(at + KEY.len()..)) {
            let end = value.iter().position(|byte| *byte == b'\'').unwrap_or(0);
            self.context = self.context.or(crate::http::context(&value[..end]));
        }
    }

    /// A literal that ends with `quote`, at which this stands.
    fn string(&mut self, quote: u8, has_escapes: bool) {
        let mut at = self.at + 1;
        while let Some(byte) = self.sql.get(at) {
            at += match *byte {
                b'\\' if has_escapes => 2,
                byte if byte == quote && self.sql.get(at + 1) == Some(&quote) => 2,
                byte if byte == quote => break,
                _ => 1,
            };
        }
        let end = (at + 1).min(self.sql.len());
        self.placeholder(b"?", end - self.at);
        if has_escapes && self.before != Before::Item {
            self.before = Before::Escaped;
        }
    }

    /// A name in quotes.
    fn quoted(&mut self, quote: u8) {
        let rest = &self.sql[self.at + 1..];
        let Some(length) = rest.iter().position(|byte| *byte == quote) else {
            // A name that is cut would be another name.
            self.at = self.sql.len();
            return;
        };
        let whole = &self.sql[self.at..self.at + length + 2];
        self.emit(whole);
        self.summary.quoted(&rest[..length]);
        (self.at, self.before) = (self.at + length + 2, Before::Operand);
    }

    /// `$1`, or `$tag$ ... $tag$`.
    fn dollar(&mut self) {
        let rest = &self.sql[self.at..];
        let is_tag = |byte: &&u8| **byte != b'$' && (is_word(**byte) || byte.is_ascii_digit());
        let tag = 1 + rest[1..].iter().take_while(is_tag).count();
        if rest.get(1).is_some_and(u8::is_ascii_digit) {
            return self.placeholder(&rest[..tag], tag);
        }
        if rest.get(tag) != Some(&b'$') {
            // A tag that is cut, or no token at all.
            let length = if tag == rest.len() { tag } else { 1 };
            return self.placeholder(b"?", length);
        }
        let tag = &rest[..=tag];
        let close = rest[tag.len()..].windows(tag.len()).position(|window| window == tag);
        self.placeholder(b"?", close.map_or(rest.len(), |close| close + 2 * tag.len()));
    }

    fn number(&mut self) {
        let rest = &self.sql[self.at..];
        let mut length = 0;
        let is_radix = rest[0] == b'0' && matches!(rest.get(1), Some(b'x' | b'X' | b'b' | b'B' | b'o' | b'O'));
        while let Some(byte) = rest.get(length) {
            let is_exponent = !is_radix && length > 0 && matches!(rest[length - 1], b'e' | b'E');
            match byte {
                b'+' | b'-' if is_exponent => {}
                b'.' => {}
                byte if is_word(*byte) || byte.is_ascii_digit() => {}
                _ => break,
            }
            length += 1;
        }
        self.placeholder(b"?", length);
    }

    /// A literal or placeholder of so many bytes, and what stands for it.
    fn placeholder(&mut self, token: &[u8], length: usize) {
        self.at += length;
        self.summary.literal();
        self.is_group_over();
        let is_item = self.list.is_some_and(|list| list.depth == self.depth);
        match self.before {
            Before::ItemComma => {
                // Folded into the item before: its comma goes.
                let end = self.text.iter().rposition(|byte| *byte == b',').unwrap_or(self.text.len());
                self.text.truncate(end);
                (self.is_space_due, self.before) = (false, Before::Item);
            }
            Before::Escaped if self.text.ends_with(b"?") => self.is_space_due = false,
            _ => {
                self.emit(if is_item { b"?" } else { token });
                // Only an item that stands alone between commas folds.
                let is_alone =
                    is_item && matches!(self.text[..self.text.len() - 1].trim_ascii_end().last(), Some(b'(' | b','));
                self.before = if is_alone { Before::Item } else { Before::Operand };
            }
        }
    }

    fn word(&mut self) {
        let rest = &self.sql[self.at..];
        let length = rest.iter().take_while(|byte| is_word(**byte) || byte.is_ascii_digit()).count();
        let word = &rest[..length];
        match rest.get(length) {
            // E'', N'', X'', B'' and _utf8'': what stands before the quote says how to read the string.
            Some(b'\'') if length == 1 || word[0] == b'_' => {
                self.at += length;
                let is_escape = !self.is_mysql && matches!(word, b"e" | b"E");
                return self.string(b'\'', self.has_escapes || is_escape);
            }
            // Cut: it would be another word.
            None if self.is_cut => {
                self.at += length;
                return;
            }
            _ => {}
        }
        self.is_group_over();
        self.emit(word);
        self.summary.word(word);
        self.at += length;
        self.before = match word.len() {
            2 if word.eq_ignore_ascii_case(b"IN") => Before::In,
            5 if word.eq_ignore_ascii_case(b"VALUE") => Before::Values,
            6 if word.eq_ignore_ascii_case(b"VALUES") => Before::Values,
            _ => Before::Operand,
        };
    }

    fn symbol(&mut self, byte: u8) {
        self.at += 1;
        self.summary.symbol(byte);
        let before = std::mem::replace(&mut self.before, Before::Other);
        match byte {
            b'(' => {
                self.depth += 1;
                if matches!(before, Before::In | Before::Values) && self.list.is_none() {
                    let start = self.text.len() + usize::from(self.is_space_due);
                    self.list = Some(List { depth: self.depth, start, is_values: before == Before::Values });
                }
                self.emit(b"(");
            }
            b')' => {
                self.emit(b")");
                self.before = Before::Operand;
                if let Some(list) = self.list.take_if(|list| list.depth == self.depth).filter(|list| list.is_values) {
                    self.close_group(list.start);
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b',' if before == Before::Item => {
                self.emit(b",");
                self.before = Before::ItemComma;
            }
            b',' if before == Before::Group => {
                self.emit(b",");
                self.before = Before::Values;
            }
            byte if !byte.is_ascii_control() => {
                self.is_group_over();
                self.emit(&[byte]);
            }
            _ => {}
        }
    }

    /// A group of `VALUES` ends: one like the first goes.
    fn close_group(&mut self, start: usize) {
        self.before = Before::Group;
        match &self.group {
            Some(first) if self.text.get(first.clone()) == self.text.get(start..) => self.text.truncate(first.end),
            Some(_) => {}
            None => self.group = Some(start..self.text.len()),
        }
    }

    /// Something follows that is no further group.
    fn is_group_over(&mut self) {
        if self.list.is_none() {
            self.group = None;
        }
    }

    /// A group that is cut goes.
    fn fold_group(&mut self) {
        if let Some(first) = &self.group {
            self.text.truncate(first.end);
        }
    }
}

/// Whether a byte begins a word, or goes on with it: letters, and what is not ASCII.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$') || byte >= 0x80
}
