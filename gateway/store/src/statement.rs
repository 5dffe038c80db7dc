//! Reads a statement just far enough to know what to do with it: where an INSERT's data begins and in which format, which format an
//! answer is in, and what must not reach the engine.
//!
//! The text comes from `http`, the plan goes to `session`. The engine's own parser has the last word on everything else.
//! Invariant: at most one statement is passed on, and never one that reads or writes files of the client (INFILE, OUTFILE): here
//! the client is this process.

use crate::error::Refusal;

/// What to do with a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan<'a> {
    /// Run it as it is.
    Run {
        /// The statement, without what follows it.
        sql: &'a [u8],
        /// The format it asks for.
        format: Option<&'a str>,
        /// Whether it is an INSERT.
        insert: bool,
    },
    /// An INSERT whose data follows, in the text or in the body.
    Insert {
        /// `INSERT INTO table (columns)`.
        target: &'a [u8],
        /// `SETTINGS ...`, or nothing.
        settings: &'a [u8],
        /// The data's format; none is named when the statement ends without one.
        format: Option<&'a str>,
        /// Data in the text.
        data: &'a [u8],
    },
    /// An INSERT that selects from `input(structure)`: the data follows the format.
    Input {
        /// Up to `input`.
        before: &'a [u8],
        /// The structure, a quoted string.
        structure: &'a [u8],
        /// After the closing bracket, up to FORMAT.
        after: &'a [u8],
        /// The data's format.
        format: &'a str,
        /// Data in the text.
        data: &'a [u8],
    },
}

/// Code 62.
const SYNTAX_ERROR: i32 = 62;
/// Code 344.
const SUPPORT_IS_DISABLED: i32 = 344;

/// Read a text.
pub(crate) fn plan(text: &[u8]) -> Result<Plan<'_>, Refusal> {
    let mut tokens = Tokens { text, at: 0 };
    let first = tokens.next();
    match first {
        None => return Err(Refusal::new(SYNTAX_ERROR, "Empty query")),
        Some(token) if token.is(b"insert") => return plan_insert(tokens),
        // The engine's client takes these for commands to itself.
        Some(token) if CLIENT_WORDS.iter().any(|word| token.is(word)) && tokens.clone().next().is_none() => {
            return Err(Refusal::new(SYNTAX_ERROR, "Syntax error: failed at position 1: not a statement"));
        }
        Some(token) if token.kind != Kind::Word && token.kind != Kind::Open => {
            return Err(Refusal::new(SYNTAX_ERROR, "Syntax error: failed at position 1: expected a statement"));
        }
        Some(_) => {}
    }
    let mut format = None;
    let mut depth = usize::from(first.is_some_and(|token| token.kind == Kind::Open));
    let mut previous = first;
    let mut end = text.len();
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon => {
                end = token.start;
                refuse_more(tokens)?;
                break;
            }
            Kind::Word if token.is(b"outfile") && previous.is_some_and(|previous| previous.is(b"into")) => {
                return Err(Refusal::new(SUPPORT_IS_DISABLED, "INTO OUTFILE is not allowed"));
            }
            Kind::Word if depth == 0 && previous.is_some_and(|previous| previous.is(b"format")) => {
                format = std::str::from_utf8(token.text).ok();
            }
            _ => {}
        }
        previous = Some(token);
    }
    Ok(Plan::Run { sql: &text[..end], format, insert: false })
}

const CLIENT_WORDS: [&[u8]; 4] = [b"exit", b"quit", b"logout", b"q"];

/// After `INSERT`.
fn plan_insert(mut tokens: Tokens<'_>) -> Result<Plan<'_>, Refusal> {
    let text = tokens.text;
    let mut depth = 0usize;
    let mut settings: Option<usize> = None;
    let mut previous: Option<Token<'_>> = None;
    while let Some(token) = tokens.next() {
        // A table may be named like a keyword.
        let named = previous.is_some_and(|p| p.text == b"." || p.is(b"into") || p.is(b"table") || p.is(b"function"));
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon => {
                refuse_more(tokens)?;
                return Ok(Plan::Insert {
                    target: &text[..settings.unwrap_or(token.start)],
                    settings: &text[settings.unwrap_or(token.start)..token.start],
                    format: None,
                    data: &[],
                });
            }
            Kind::Word if depth == 0 && !named => {
                let split = settings.unwrap_or(token.start);
                if token.is(b"settings") {
                    settings.get_or_insert(token.start);
                } else if token.is(b"infile") {
                    return Err(Refusal::new(SUPPORT_IS_DISABLED, "INSERT ... FROM INFILE is not allowed"));
                } else if token.is(b"values") {
                    return Ok(Plan::Insert {
                        target: &text[..split],
                        settings: &text[split..token.start],
                        format: Some("Values"),
                        data: &text[tokens.at..],
                    });
                } else if token.is(b"format") {
                    let format = format_name(tokens.next())?;
                    return Ok(Plan::Insert {
                        target: &text[..split],
                        settings: &text[split..token.start],
                        format: Some(format),
                        data: data_after(text, tokens.at),
                    });
                } else if [b"select".as_slice(), b"with", b"watch"].iter().any(|word| token.is(word)) {
                    return plan_select(tokens);
                }
            }
            _ => {}
        }
        previous = Some(token);
    }
    let split = settings.unwrap_or(text.len());
    Ok(Plan::Insert { target: &text[..split], settings: &text[split..], format: None, data: &[] })
}

/// After `INSERT INTO table SELECT`: with `input()` there is data after FORMAT.
fn plan_select(mut tokens: Tokens<'_>) -> Result<Plan<'_>, Refusal> {
    let text = tokens.text;
    let mut depth = 0usize;
    let mut input: Option<(usize, &[u8], usize)> = None;
    let mut end = text.len();
    while let Some(token) = tokens.next() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            Kind::Semicolon => {
                end = token.start;
                refuse_more(tokens)?;
                break;
            }
            Kind::Word if token.is(b"outfile") => {
                return Err(Refusal::new(SUPPORT_IS_DISABLED, "INTO OUTFILE is not allowed"));
            }
            Kind::Word if token.is(b"input") && input.is_none() => {
                let mut ahead = tokens.clone();
                if ahead.next().is_some_and(|token| token.kind == Kind::Open) {
                    let structure = ahead.next().filter(|token| token.kind == Kind::Quoted);
                    let structure = structure.ok_or_else(|| {
                        Refusal::new(SUPPORT_IS_DISABLED, "input() needs its structure here: input('name Type, ...')")
                    })?;
                    if ahead.next().is_some_and(|token| token.kind == Kind::Close) {
                        input = Some((token.start, structure.text, ahead.at));
                        tokens = ahead;
                    }
                }
            }
            Kind::Word if depth == 0 && token.is(b"format") => {
                if let Some((start, structure, after)) = input {
                    let format = format_name(tokens.next())?;
                    return Ok(Plan::Input {
                        before: &text[..start],
                        structure,
                        after: &text[after..token.start],
                        format,
                        data: data_after(text, tokens.at),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(Plan::Run { sql: &text[..end], format: None, insert: true })
}

fn format_name(token: Option<Token<'_>>) -> Result<&str, Refusal> {
    token
        .filter(|token| token.kind == Kind::Word)
        .and_then(|token| std::str::from_utf8(token.text).ok())
        .ok_or_else(|| Refusal::new(SYNTAX_ERROR, "Syntax error: expected the name of a format after FORMAT"))
}

/// Data begins after blanks and one line's end, as ClickHouse has it: a format may begin with blanks of its own.
fn data_after(text: &[u8], mut at: usize) -> &[u8] {
    while text.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    if text.get(at) == Some(&b'\r') && text.get(at + 1) == Some(&b'\n') {
        at += 1;
    }
    if text.get(at) == Some(&b'\n') {
        at += 1;
    }
    &text[at..]
}

fn refuse_more(mut tokens: Tokens<'_>) -> Result<(), Refusal> {
    if tokens.all(|token| token.kind == Kind::Semicolon) {
        Ok(())
    } else {
        Err(Refusal::new(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed): send one statement a request"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Open,
    Close,
    Semicolon,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    start: usize,
    text: &'a [u8],
}

impl Token<'_> {
    /// A keyword, in whatever case.
    fn is(&self, word: &[u8]) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }
}

/// The lexer: words, quoted things, brackets; comments are skipped. Never fails: an unterminated quote runs to the end.
#[derive(Clone, Debug)]
struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks_and_comments();
        let start = self.at;
        let byte = *self.text.get(start)?;
        let (kind, length) = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                (Kind::Word, self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'))
            }
            b'0'..=b'9' => (Kind::Other, self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_')),
            b'\'' | b'"' | b'`' => (Kind::Quoted, self.quoted(byte)),
            b'$' => (Kind::Quoted, self.heredoc()),
            b'(' | b'[' | b'{' => (Kind::Open, 1),
            b')' | b']' | b'}' => (Kind::Close, 1),
            b';' => (Kind::Semicolon, 1),
            _ => (Kind::Other, 1),
        };
        self.at += length;
        Some(Token { kind, start, text: &self.text[start..self.at] })
    }
}

impl Tokens<'_> {
    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    fn skip_blanks_and_comments(&mut self) {
        loop {
            let rest = self.rest();
            let length = match rest {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => 1,
                [b'-', b'-', ..] | [b'#', b' ' | b'!', ..] => {
                    rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
                }
                [b'/', b'*', ..] => {
                    rest[2..].windows(2).position(|pair| pair == b"*/").map_or(rest.len(), |found| found + 4)
                }
                _ => return,
            };
            self.at += length;
        }
    }

    fn run(&self, belongs: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest();
        rest.iter().position(|&byte| !belongs(byte)).unwrap_or(rest.len())
    }

    fn quoted(&self, quote: u8) -> usize {
        let rest = self.rest();
        let mut at = 1;
        while let Some(&byte) = rest.get(at) {
            match byte {
                b'\\' => at += 2,
                _ if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        rest.len()
    }

    /// `$tag$ ... $tag$`; a lone dollar sign stands for itself.
    fn heredoc(&self) -> usize {
        let rest = self.rest();
        let Some(close) = rest[1..].iter().position(|&byte| byte == b'$').map(|found| found + 2) else { return 1 };
        let (tag, body) = rest.split_at(close);
        if !tag[1..close - 1].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return 1;
        }
        body.windows(tag.len()).position(|window| window == tag).map_or(1, |found| close + found + tag.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<'a>(sql: &'a str, format: Option<&'a str>) -> Plan<'a> {
        Plan::Run { sql: sql.as_bytes(), format, insert: false }
    }

    fn insert<'a>(target: &'a str, settings: &'a str, format: Option<&'a str>, data: &'a [u8]) -> Plan<'a> {
        Plan::Insert { target: target.as_bytes(), settings: settings.as_bytes(), format, data }
    }

    #[test]
    fn the_answers_format_is_the_statements_own() {
        for (text, expected) in [
            ("SELECT 1", run("SELECT 1", None)),
            ("SELECT 1 FORMAT JSON", run("SELECT 1 FORMAT JSON", Some("JSON"))),
            ("select 1 format CSV;", run("select 1 format CSV", Some("CSV"))),
            ("-- x\n/* FORMAT XML */ SELECT 'FORMAT TSV'", run("-- x\n/* FORMAT XML */ SELECT 'FORMAT TSV'", None)),
            ("(SELECT 1 FORMAT Null)", run("(SELECT 1 FORMAT Null)", None)),
            ("SELECT $a$;FORMAT X$a$", run("SELECT $a$;FORMAT X$a$", None)),
        ] {
            assert_eq!(plan(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_inserts_data_begins_where_clickhouse_says() {
        for (text, expected) in [
            ("INSERT INTO t VALUES (1)", insert("INSERT INTO t ", "", Some("Values"), b" (1)")),
            ("INSERT INTO t(a,b) FORMAT CSV\n\n1,2", insert("INSERT INTO t(a,b) ", "", Some("CSV"), b"\n1,2")),
            ("insert into t format TSV \r\n x", insert("insert into t ", "", Some("TSV"), b" x")),
            (
                "INSERT INTO d.format (`values`) SETTINGS a=1, b='format x' FORMAT RowBinary",
                insert("INSERT INTO d.format (`values`) ", "SETTINGS a=1, b='format x' ", Some("RowBinary"), b""),
            ),
            ("INSERT INTO t", insert("INSERT INTO t", "", None, b"")),
            ("INSERT INTO values FORMAT CSV\n1;2", insert("INSERT INTO values ", "", Some("CSV"), b"1;2")),
            (
                "INSERT INTO FUNCTION null('a UInt8') VALUES (1)",
                insert("INSERT INTO FUNCTION null('a UInt8') ", "", Some("Values"), b" (1)"),
            ),
        ] {
            assert_eq!(plan(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_insert_that_selects_is_run_as_it_is() {
        let text = b"INSERT INTO t SELECT input FROM u FORMAT Null;";
        assert_eq!(plan(text).unwrap(), Plan::Run { sql: &text[..text.len() - 1], format: None, insert: true });
    }

    #[test]
    fn input_takes_the_data_after_the_format() {
        let text = b"INSERT INTO t SELECT a + 1 FROM input('a UInt8') WHERE a > 1 FORMAT CSV\n1\n2";
        let expected = Plan::Input {
            before: b"INSERT INTO t SELECT a + 1 FROM ",
            structure: b"'a UInt8'",
            after: b" WHERE a > 1 ",
            format: "CSV",
            data: b"1\n2",
        };
        assert_eq!(plan(text).unwrap(), expected);
    }

    #[test]
    fn a_second_statement_and_the_clients_files_are_refused() {
        for (text, code) in [
            ("SELECT 1; DROP TABLE t", 62),
            ("SELECT 1 INTO OUTFILE 'x'", 344),
            ("SELECT 1 /* */ into /* */ outfile 'x' FORMAT CSV", 344),
            ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 344),
            ("INSERT INTO t (a) SELECT 1 INTO OUTFILE 'x'", 344),
            ("exit", 62),
            (" -- nothing", 62),
            ("'x'", 62),
            ("INSERT INTO t SELECT 1; SELECT 2", 62),
        ] {
            assert_eq!(plan(text.as_bytes()).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces: [&[u8]; 16] = [
            b"INSERT", b" ", b"INTO", b"(", b")", b"'", b"\\", b"$a$", b"$", b"--", b"/*", b"*/", b"FORMAT", b";",
            b"\xff", b"input(",
        ];
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut text = Vec::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.extend_from_slice(pieces[(state >> 60) as usize]);
            }
            let _ = plan(&text);
        }
    }
}
