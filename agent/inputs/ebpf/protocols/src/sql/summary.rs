//! What a query does to what, from its words in order: `SELECT orders`, `INSERT orders SELECT carts`.
//!
//! No grammar, only the few places where SQL puts the names of tables: after `FROM`, `JOIN`, `INTO` and the operations
//! themselves. Invariant: at most [`SUMMARY_BYTES_MAX`] bytes, cut between words, and only of words known as operations and of names.

use super::SUMMARY_BYTES_MAX;
use std::ops::Range;

/// Words that begin a statement.
const OPERATIONS: [&[u8]; 79] = [
    b"ABORT",
    b"ALTER",
    b"ANALYSE",
    b"ANALYZE",
    b"BEGIN",
    b"BINLOG",
    b"CALL",
    b"CHANGE",
    b"CHECK",
    b"CHECKPOINT",
    b"CHECKSUM",
    b"CLOSE",
    b"CLUSTER",
    b"COMMENT",
    b"COMMIT",
    b"COPY",
    b"CREATE",
    b"DEALLOCATE",
    b"DECLARE",
    b"DELETE",
    b"DESC",
    b"DESCRIBE",
    b"DISCARD",
    b"DO",
    b"DROP",
    b"END",
    b"EXECUTE",
    b"EXPLAIN",
    b"FETCH",
    b"FLUSH",
    b"GET",
    b"GRANT",
    b"HANDLER",
    b"HELP",
    b"IDENTIFY_SYSTEM",
    b"IMPORT",
    b"INSERT",
    b"INSTALL",
    b"KILL",
    b"LISTEN",
    b"LOAD",
    b"LOCK",
    b"MERGE",
    b"MOVE",
    b"NOTIFY",
    b"OPTIMIZE",
    b"PREPARE",
    b"PURGE",
    b"REASSIGN",
    b"REFRESH",
    b"REINDEX",
    b"RELEASE",
    b"RENAME",
    b"REPAIR",
    b"REPLACE",
    b"RESET",
    b"RESIGNAL",
    b"REVOKE",
    b"ROLLBACK",
    b"SAVEPOINT",
    b"SECURITY",
    b"SELECT",
    b"SET",
    b"SHOW",
    b"SHUTDOWN",
    b"SIGNAL",
    b"START",
    b"START_REPLICATION",
    b"STOP",
    b"TABLE",
    b"TRUNCATE",
    b"UNINSTALL",
    b"UNLISTEN",
    b"UNLOCK",
    b"UPDATE",
    b"USE",
    b"VACUUM",
    b"VALUES",
    b"XA",
];
/// Things that are created, altered and dropped, whose name tells what they are.
const OBJECTS: [&[u8]; 10] = [
    b"DATABASE",
    b"FUNCTION",
    b"INDEX",
    b"MATERIALIZED",
    b"PROCEDURE",
    b"SCHEMA",
    b"SEQUENCE",
    b"TABLE",
    b"TRIGGER",
    b"VIEW",
];
/// Longer names are no names.
const NAME_BYTES_MAX: usize = 64;
/// A name with so many digits in a row is one of many.
const DIGITS_MAX: usize = 4;
/// Names of common table expressions that are remembered.
const EXPRESSIONS_MAX: usize = 8;

/// What the next word is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    /// Of no interest, unless it is a keyword.
    #[default]
    Any,
    /// A statement's first word.
    Operation,
    /// A table's name.
    Target,
    /// The rest of a name, after its dot.
    Rest,
    /// The kind of an object.
    Object,
    /// A common table expression's name.
    Expression,
}

/// Reads words.
#[derive(Debug)]
pub(super) struct Summary {
    text: Vec<u8>,
    is_full: bool,
    operation: Range<usize>,
    operations: usize,
    target: Range<usize>,
    targets: usize,
    expect: Expect,
    /// The keyword before, in upper case, as far as it matters.
    before: Before,
    depth: u32,
    /// By depth, lowest bit first: whether a statement is there that may have a `FROM`; whether its list of tables goes on.
    statements: u64,
    lists: u64,
    /// Depth of `WITH`, while its expressions are listed.
    with: Option<u32>,
    expressions: Vec<Vec<u8>>,
    is_dml: bool,
    /// The body of a routine comes: what it does is not done now.
    is_body: bool,
}

/// A word before, where it changes what the next means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// The statement, or one within parentheses, begins here.
    Start,
    /// `DISTINCT`, after which `FROM` compares; `ON`, `FOR`, `KEY` and `DO`, after which `UPDATE` and `DELETE` do nothing.
    Modifier,
    /// A table's name, which may go on.
    Name,
    Other,
}

impl Summary {
    pub(super) fn new() -> Summary {
        Summary {
            text: Vec::with_capacity(32),
            is_full: false,
            operation: 0..0,
            operations: 0,
            target: 0..0,
            targets: 0,
            expect: Expect::Operation,
            before: Before::Start,
            depth: 0,
            statements: 0,
            lists: 0,
            with: None,
            expressions: Vec::new(),
            is_dml: false,
            is_body: false,
        }
    }

    /// A word without quotes.
    pub(super) fn word(&mut self, word: &[u8]) {
        let mut upper = [0; 20];
        let keyword = match upper.get_mut(..word.len()) {
            Some(upper) => {
                upper.copy_from_slice(word);
                upper.make_ascii_uppercase();
                &*upper
            }
            None => &[],
        };
        let before = std::mem::replace(&mut self.before, Before::Other);
        match self.expect {
            Expect::Rest => return self.name(word),
            Expect::Operation => return self.first(keyword),
            Expect::Object => return self.object(keyword),
            Expect::Expression if keyword != b"RECURSIVE" => {
                self.expect = Expect::Any;
                if self.expressions.len() < EXPRESSIONS_MAX {
                    self.expressions.push(word.to_vec());
                }
                return;
            }
            Expect::Expression => return,
            Expect::Target | Expect::Any => {}
        }
        if self.expect == Expect::Target {
            match keyword {
                b"CONCURRENTLY" | b"DELAYED" | b"EXISTS" | b"FROM" | b"HIGH_PRIORITY" | b"IF" | b"IGNORE" | b"INTO"
                | b"LATERAL" | b"LOW_PRIORITY" | b"NOT" | b"ONLY" | b"QUICK" | b"TABLE" | b"TABLES" | b"VIEW" => return,
                // No name where one should be: `COPY (SELECT`, `DELETE FROM` without one.
                b"SELECT" | b"VALUES" | b"SET" | b"WHERE" => self.expect = Expect::Any,
                _ => return self.name(word),
            }
        }
        match keyword {
            b"SELECT" => self.begin(keyword),
            b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" if before == Before::Start => {
                self.begin(keyword);
                self.expect = Expect::Target;
            }
            b"FROM" if before != Before::Modifier && self.statements & 1 == 1 => {
                self.lists |= 1;
                self.expect = Expect::Target;
            }
            b"JOIN" => self.expect = Expect::Target,
            b"INTO" | b"USING" if self.is_dml => self.expect = Expect::Target,
            b"WITH" if before == Before::Start => self.with(),
            b"DISTINCT" | b"ON" | b"FOR" | b"KEY" | b"DO" => {
                self.before = Before::Modifier;
                self.lists &= !u64::from(keyword == b"ON");
            }
            b"AS" | b"ANALYZE" => self.before = Before::Start,
            b"WHERE" | b"GROUP" | b"ORDER" | b"LIMIT" | b"HAVING" | b"SET" | b"UNION" | b"RETURNING" | b"WINDOW" => {
                self.lists &= !1;
            }
            _ => {}
        }
    }

    /// A name in quotes, without them.
    pub(super) fn quoted(&mut self, name: &[u8]) {
        self.before = Before::Other;
        match self.expect {
            Expect::Target | Expect::Rest => self.name(name),
            Expect::Expression => {
                self.expect = Expect::Any;
                if self.expressions.len() < EXPRESSIONS_MAX {
                    self.expressions.push(name.to_vec());
                }
            }
            _ => self.expect = Expect::Any,
        }
    }

    /// A literal or a placeholder.
    pub(super) fn literal(&mut self) {
        self.before = Before::Other;
        self.expect = Expect::Any;
    }

    /// Any other byte.
    pub(super) fn symbol(&mut self, byte: u8) {
        let before = std::mem::replace(&mut self.before, Before::Other);
        match byte {
            b'.' if before == Before::Name => {
                self.text.push(b'.');
                self.target.end += 1;
                self.expect = Expect::Rest;
            }
            b'(' => {
                self.depth += 1;
                (self.statements, self.lists) = (self.statements << 1, self.lists << 1);
                self.before = Before::Start;
                if self.expect != Expect::Operation {
                    self.expect = Expect::Any;
                }
            }
            b')' => {
                self.depth = self.depth.saturating_sub(1);
                (self.statements, self.lists) = (self.statements >> 1, self.lists >> 1);
                self.before = Before::Start;
                self.expect = Expect::Any;
            }
            b',' if self.with == Some(self.depth) => self.expect = Expect::Expression,
            b',' if self.lists & 1 == 1 => self.expect = Expect::Target,
            b';' => {
                (self.depth, self.statements, self.lists, self.with) = (0, 0, 0, None);
                (self.expect, self.before, self.is_dml) = (Expect::Operation, Before::Start, false);
            }
            // A placeholder or a variable may stand where a name is expected; anything else ends a name.
            _ => {
                self.expect = if self.expect == Expect::Operation { Expect::Operation } else { Expect::Any };
                self.before = if before == Before::Modifier { Before::Modifier } else { Before::Other };
            }
        }
        self.close_name();
    }

    /// The query is cut behind what was read: a name that may go on is not shown.
    pub(super) fn cut(&mut self) {
        if self.expect == Expect::Rest {
            self.text.truncate(self.target.start.saturating_sub(1));
            self.targets = self.targets.saturating_sub(1);
            (self.target, self.expect) = (0..0, Expect::Any);
        }
    }

    /// The summary; the first operation in it; the name in it, if it holds one alone.
    pub(super) fn finish(mut self) -> (String, Range<usize>, Option<Range<usize>>) {
        self.close_name();
        let is_one = self.targets == 1 && self.operations == 1 && !self.is_full && !self.target.is_empty();
        // Names are cut at no place within a character, but need not be text at all.
        match String::from_utf8(self.text) {
            Ok(text) => (text, self.operation, is_one.then_some(self.target)),
            Err(error) => {
                let mut text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                text.truncate(text.floor_char_boundary(SUMMARY_BYTES_MAX));
                (text, self.operation, None)
            }
        }
    }

    /// A statement's first word.
    fn first(&mut self, keyword: &[u8]) {
        self.expect = Expect::Any;
        match keyword {
            b"WITH" => self.with(),
            b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" | b"REPLACE" | b"LOAD" => {
                self.begin(keyword);
                // What is loaded is a file.
                self.expect = if keyword == b"LOAD" { Expect::Any } else { Expect::Target };
            }
            b"COPY" | b"CALL" | b"TRUNCATE" | b"LOCK" | b"USE" | b"DESC" | b"DESCRIBE" | b"TABLE" => {
                self.begin(keyword);
                self.expect = Expect::Target;
            }
            b"CREATE" | b"ALTER" | b"DROP" | b"REFRESH" => {
                self.begin(keyword);
                self.expect = Expect::Object;
            }
            b"EXPLAIN" => {
                self.begin(keyword);
                self.before = Before::Start;
            }
            _ if OPERATIONS.binary_search(&keyword).is_ok() => self.begin(keyword),
            _ => {}
        }
    }

    /// An operation.
    fn begin(&mut self, keyword: &[u8]) {
        self.close_name();
        if self.is_body {
            return;
        }
        self.is_dml = matches!(keyword, b"INSERT" | b"DELETE" | b"MERGE" | b"REPLACE" | b"LOAD");
        let may_have_from = matches!(keyword, b"SELECT" | b"UPDATE" | b"DELETE");
        self.statements = self.statements & !1 | u64::from(may_have_from);
        self.lists &= !1;
        if self.with == Some(self.depth) {
            self.with = None;
        }
        if let Some(place) = self.push(keyword) {
            self.operations += 1;
            if self.operations == 1 {
                self.operation = place;
            }
        }
    }

    /// The kind of what is created, altered or dropped.
    fn object(&mut self, keyword: &[u8]) {
        match keyword {
            b"OR" | b"REPLACE" | b"TEMP" | b"TEMPORARY" | b"UNIQUE" | b"UNLOGGED" | b"GLOBAL" | b"LOCAL"
            | b"FOREIGN" | b"FULLTEXT" | b"SPATIAL" | b"RECURSIVE" => {}
            _ => {
                self.expect = Expect::Any;
                if OBJECTS.binary_search(&keyword).is_ok()
                    && let Some(place) = self.push(keyword)
                {
                    self.operation.end = place.end;
                    self.expect = Expect::Target;
                    self.is_body = matches!(keyword, b"FUNCTION" | b"PROCEDURE" | b"TRIGGER");
                } else if matches!(
                    keyword,
                    b"USER" | b"ROLE" | b"TYPE" | b"DOMAIN" | b"EXTENSION" | b"EVENT" | b"SERVER"
                ) && let Some(place) = self.push(keyword)
                {
                    self.operation.end = place.end;
                }
            }
        }
    }

    fn with(&mut self) {
        (self.with, self.expect) = (Some(self.depth), Expect::Expression);
    }

    /// A name, or the rest of one.
    fn name(&mut self, name: &[u8]) {
        let is_rest = self.expect == Expect::Rest;
        self.expect = Expect::Any;
        if self.is_body && self.targets > 0 && !is_rest {
            return;
        }
        if !is_rest && self.expressions.iter().any(|expression| expression.eq_ignore_ascii_case(name)) {
            return;
        }
        let mut short = Vec::with_capacity(NAME_BYTES_MAX);
        let name = &name[..name.len().min(NAME_BYTES_MAX)];
        let mut rest = name;
        while let Some(byte) = rest.first() {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits > DIGITS_MAX {
                short.push(b'?');
            } else if digits > 0 {
                short.extend_from_slice(&rest[..digits]);
            } else {
                short.push(if byte.is_ascii_control() { b' ' } else { *byte });
            }
            rest = &rest[digits.max(1)..];
        }
        if is_rest {
            if self.text.len() + short.len() <= SUMMARY_BYTES_MAX {
                self.text.extend_from_slice(&short);
                (self.target.end, self.before) = (self.text.len(), Before::Name);
            } else {
                self.is_full = true;
            }
        } else if let Some(place) = self.push(&short) {
            self.targets += 1;
            (self.target, self.before) = (place, Before::Name);
        }
    }

    /// What comes next is no part of the name before.
    fn close_name(&mut self) {
        if self.expect != Expect::Rest && self.text.last() == Some(&b'.') {
            self.text.pop();
            self.target.end = self.target.end.min(self.text.len());
        }
    }

    fn push(&mut self, word: &[u8]) -> Option<Range<usize>> {
        let start = self.text.len() + usize::from(!self.text.is_empty());
        self.is_full |= start + word.len() > SUMMARY_BYTES_MAX;
        if self.is_full || word.is_empty() {
            return None;
        }
        if start > 0 {
            self.text.push(b' ');
        }
        self.text.extend_from_slice(word);
        Some(start..self.text.len())
    }
}
