//! SQL as it goes over the wire: read once, without its literals, and named by what it does to what.
//!
//! In: the first bytes of a query, perhaps cut. Out: a [`Query`], from which spans take their name and attributes, by
//! OpenTelemetry's semantic conventions for database clients. Invariant: no literal comes out, also where the cut leaves one open.

mod reader;
mod statements;
mod summary;

pub(crate) use statements::{Answer, Statements, Waiting};

use crate::{Context, Exchange, Kind, Moment};
use ollystack_record::attribute::string;
use ollystack_schema::names::semconv;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a query's text that are kept.
pub(crate) const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of a span's name.
pub(crate) const SUMMARY_BYTES_MAX: usize = 200;

/// Bytes of a database's name.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Quotes names by `"`, strings by `'` and `$tag$`; a backslash escapes in `E'...'` alone.
    PostgreSql,
    /// Quotes names by `` ` ``, strings by `'` and `"`; a backslash escapes.
    MySql,
    /// As [`Dialect::MySql`] in the mode `NO_BACKSLASH_ESCAPES`.
    MySqlPlainBackslash,
}

/// What is kept of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Without comments, literals as `?`, lists of them folded.
    text: String,
    /// Operations and what they are done to, in order: `INSERT orders SELECT carts`.
    summary: String,
    /// The first operation within the summary.
    operation: Range<usize>,
    /// The one table within the summary, if it is one.
    collection: Option<Range<usize>>,
}

impl Query {
    /// Read a query; the caller's trace context if a comment of it bears one (sqlcommenter).
    pub(crate) fn read(sql: &[u8], is_cut: bool, dialect: Dialect) -> (Query, Option<Context>) {
        let (text, summary, context) = reader::read(sql, is_cut, dialect);
        let (summary, operation, collection) = summary.finish();
        let query = Query { text: text_of(text), summary, operation, collection };
        (query, context)
    }

    /// Something that is done without SQL, `CONNECT`, or of which no more than the operation is known.
    pub(crate) fn of(operation: &str) -> Query {
        Query { operation: 0..operation.len(), summary: operation.to_owned(), ..Query::default() }
    }

    /// What is done: `SELECT`, `CREATE TABLE`; empty if that is unknown.
    pub(crate) fn operation(&self) -> &str {
        self.summary.get(self.operation.clone()).unwrap_or_default()
    }

    /// What it is done to, if that is one thing.
    pub(crate) fn collection(&self) -> Option<&str> {
        self.summary.get(self.collection.clone()?)
    }

    /// The database that it makes the current one.
    pub(crate) fn database(&self) -> Option<&str> {
        self.collection().filter(|_| self.operation() == "USE")
    }

    fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// Its name alone.
    fn without_text(&self) -> Query {
        Query {
            text: String::new(),
            summary: self.summary.as_str().to_owned(),
            operation: self.operation.clone(),
            collection: self.collection.clone(),
        }
    }

    /// Memory that it takes.
    fn bytes(&self) -> usize {
        size_of::<Query>() + 2 * size_of::<usize>() + self.text.capacity() + self.summary.capacity()
    }
}

/// A request to a database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// What is asked; `None` if it was not seen, or room for it was lacking.
    pub(crate) query: Option<Arc<Query>>,
    pub(crate) context: Option<Context>,
}

/// The answer to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered {
    /// What was done, as the server says it.
    pub(crate) operation: Option<Arc<Query>>,
    pub(crate) error: Option<Failure>,
}

/// An error as a server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// SQLSTATE, or the number of the error where a server has numbers.
    pub(crate) code: String,
    /// By its SQLSTATE what is asked is wrong, and the server is well.
    pub(crate) is_fault_of_client: bool,
}

/// Whether the class of a SQLSTATE blames the request. Classes 08 (connection), 40 (deadlock), 53 (resources), 57 (operator), 58
/// (system), F0 (configuration), HY (anything) and XX (internal) do not; 57014 is the client's own cancelling.
pub(crate) fn blames_client(sqlstate: &[u8]) -> bool {
    sqlstate == b"57014"
        || !matches!(sqlstate.get(..2), None | Some(b"08" | b"40" | b"53" | b"57" | b"58" | b"F0" | b"HY" | b"XX"))
}

/// The exchange of a request and its answer.
pub(crate) fn exchange(
    system: &'static str,
    namespace: Option<&str>,
    ((asked, request), (answered, answer)): ((Moment, Asked), (Moment, Answered)),
) -> Exchange {
    let known = request.query.filter(|query| !query.summary.is_empty());
    let query = known.or(answer.operation);
    let mut attributes = Vec::with_capacity(8);
    attributes.push(string(semconv::DB_SYSTEM_NAME, system));
    attributes.extend(namespace.map(|namespace| string(semconv::DB_NAMESPACE, namespace.to_owned())));
    let name = match &query {
        Some(query) => {
            attributes.push(string(semconv::DB_OPERATION_NAME, query.operation().to_owned()));
            let collection = query.collection().filter(|_| is_of_tables(query.operation()));
            attributes.extend(collection.map(|name| string(semconv::DB_COLLECTION_NAME, name.to_owned())));
            attributes.push(string(semconv::DB_QUERY_SUMMARY, query.summary.clone()));
            attributes.extend(query.has_text().then(|| string(semconv::DB_QUERY_TEXT, query.text.clone())));
            query.summary.clone()
        }
        None => system.to_owned(),
    };
    let is_fault_of_client = answer.error.as_ref().is_some_and(|failure| failure.is_fault_of_client);
    let error = answer.error.map(|failure| failure.code);
    attributes.extend(error.as_ref().map(|code| string(semconv::DB_RESPONSE_STATUS_CODE, code.clone())));
    Exchange {
        name,
        kind: Kind::Call,
        asked,
        answered,
        attributes,
        error: error.map(Into::into),
        is_fault_of_client,
        context: request.context,
    }
}

/// Whether what an operation is done to is a table.
fn is_of_tables(operation: &str) -> bool {
    match operation.rsplit_once(' ') {
        Some((_, object)) => object == "TABLE",
        None => !matches!(operation, "CALL" | "USE"),
    }
}

/// Text of bytes that a client says are text, at most [`TEXT_BYTES_MAX`].
fn text_of(bytes: Vec<u8>) -> String {
    let mut text =
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PG: Dialect = Dialect::PostgreSql;
    const MY: Dialect = Dialect::MySql;

    fn read(sql: &str, dialect: Dialect) -> Query {
        Query::read(sql.as_bytes(), false, dialect).0
    }

    #[test]
    fn literals_become_question_marks_by_the_rules_of_their_dialect() {
        let table = [
            (PG, "SELECT * FROM t WHERE a = 'it''s' AND b=-1.5e-7", "SELECT * FROM t WHERE a = ? AND b=-?"),
            (PG, r"SELECT E'a\'b', 'c:\', 2", "SELECT ?, ?, ?"),
            (PG, "SELECT E'a'\n 'b\\'c'", "SELECT ?"),
            (PG, "SELECT $$it's$$, $a$ $$ $b$ $a$, $1", "SELECT ?, ?, $1"),
            (PG, r#"SELECT "col'umn" FROM "T 1""#, r#"SELECT "col'umn" FROM "T 1""#),
            (PG, "SELECT X'ff', B'01', N'x', date '2020-01-01', .5, 0xFF, 1_000", "SELECT ?, ?, ?, date ?, ?, ?, ?"),
            (PG, "SELECT a::text, t1.c2, x -> 'k' #> '{a}' FROM t1", "SELECT a::text, t1.c2, x -> ? #> ? FROM t1"),
            (PG, "SELECT a ? 'k' FROM t", "SELECT a ? ? FROM t"),
            (MY, r#"SELECT 'a\'b', "c""d", `e'f` FROM `t`"#, "SELECT ?, ?, `e'f` FROM `t`"),
            (Dialect::MySqlPlainBackslash, r"SELECT 'c:\', 'd'", "SELECT ?, ?"),
            (MY, "SELECT _utf8'x', 5--1, @v := 0x1f", "SELECT ?, ?--?, @v := ?"),
            (MY, "SET PASSWORD FOR 'bob'@'%' = PASSWORD('x')", "SET PASSWORD FOR ?@? = PASSWORD(?)"),
        ];
        for (dialect, sql, text) in table {
            assert_eq!(read(sql, dialect).text, text, "{sql}");
        }
    }

    #[test]
    fn comments_and_white_space_go() {
        let table = [
            (PG, "/* a /* b */ c */ SELECT -- it's\n 1--2", "SELECT ?"),
            (MY, "SELECT 1 # it's\n, 2 /* /* */ , 3", "SELECT ? , ? , ?"),
            (MY, "/*!40101 SET NAMES utf8 */;", "SET NAMES utf8 ;"),
            (MY, "SELECT /*+ MAX_EXECUTION_TIME(1) */ 1\t\r\n FROM /*M!100100 t */", "SELECT ? FROM t"),
            (PG, "SELECT 1 /* never ends 'secret'", "SELECT ?"),
        ];
        for (dialect, sql, text) in table {
            assert_eq!(read(sql, dialect).text, text, "{sql}");
        }
    }

    #[test]
    fn lists_of_values_fold_whatever_their_number() {
        let table = [
            ("SELECT * FROM t WHERE a IN (1, 2,3) AND b IN ('x')", "SELECT * FROM t WHERE a IN (?) AND b IN (?)"),
            ("SELECT * FROM t WHERE a IN ($1,$2, $3)", "SELECT * FROM t WHERE a IN (?)"),
            ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y'),(3,'z')", "INSERT INTO t (a, b) VALUES (?)"),
            (
                "INSERT INTO t VALUES ($1, now(), 3), ($2, now(), 4) RETURNING a",
                "INSERT INTO t VALUES (?, now(), ?) RETURNING a",
            ),
            ("SELECT f(1, 2), a IN (SELECT 1, 2)", "SELECT f(?, ?), a IN (SELECT ?, ?)"),
            ("SELECT * FROM t WHERE a IN (1, f(2, 3), -4, 5)", "SELECT * FROM t WHERE a IN (?, f(?, ?), -?, ?)"),
        ];
        for (sql, text) in table {
            assert_eq!(read(sql, PG).text, text, "{sql}");
        }
    }

    #[test]
    fn a_query_is_named_by_what_it_does_to_what() {
        let table = [
            ("select * from orders o where id = 1", "SELECT orders"),
            (
                "SELECT a.x, b.y FROM shop.orders a, items b LEFT JOIN \"Users\" u ON u.id = a.id",
                "SELECT shop.orders items Users",
            ),
            ("SELECT orders.id FROM orders WHERE orders.a = 1", "SELECT orders"),
            ("INSERT INTO orders (a, b) VALUES (1, 2)", "INSERT orders"),
            ("INSERT INTO orders SELECT id, EXTRACT(year FROM at) FROM carts", "INSERT orders SELECT carts"),
            ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2", "INSERT t"),
            ("INSERT t VALUES (1) ON DUPLICATE KEY UPDATE a = 2", "INSERT t"),
            ("UPDATE ONLY orders SET a = 1 FROM items WHERE 1 = 1", "UPDATE orders items"),
            ("DELETE FROM orders USING items WHERE a = b", "DELETE orders items"),
            ("SELECT * FROM t WHERE a IS DISTINCT FROM b FOR UPDATE", "SELECT t"),
            ("SELECT * FROM (SELECT a FROM inner_t) x, LATERAL (SELECT 1) y", "SELECT SELECT inner_t SELECT"),
            (
                "WITH a AS (SELECT 1 FROM t), b (x) AS (SELECT 2) SELECT * FROM a JOIN b USING (x)",
                "SELECT t SELECT SELECT",
            ),
            ("WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM gone", "DELETE t INSERT u SELECT"),
            ("SELECT 1 UNION ALL SELECT a FROM t", "SELECT SELECT t"),
            ("CREATE TABLE IF NOT EXISTS shop.orders (id int REFERENCES x)", "CREATE TABLE shop.orders"),
            ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX i"),
            ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1 FROM t", "CREATE VIEW v SELECT t"),
            ("ALTER USER bob PASSWORD 'x'", "ALTER USER"),
            ("DROP TABLE IF EXISTS t", "DROP TABLE t"),
            ("TRUNCATE TABLE t", "TRUNCATE t"),
            ("COPY t (a) FROM STDIN", "COPY t"),
            ("COPY (SELECT a FROM t) TO STDOUT", "COPY SELECT t"),
            ("EXPLAIN ANALYZE UPDATE t SET a = 1", "EXPLAIN UPDATE t"),
            ("CREATE PROCEDURE two() BEGIN SELECT 1; SELECT a FROM t; END", "CREATE PROCEDURE two"),
            ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t", "LOAD t"),
            ("CALL shop.restock(1)", "CALL shop.restock"),
            ("BEGIN; UPDATE t SET a = 1; COMMIT", "BEGIN UPDATE t COMMIT"),
            ("(SELECT 1 FROM a) UNION (SELECT 2 FROM b)", "SELECT a SELECT b"),
            ("SET search_path TO shop", "SET"),
            ("DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE SELECT t"),
            ("FETCH FORWARD 100 FROM c", "FETCH"),
            ("SELECT * FROM events_20240131 JOIN shard_0042", "SELECT events_? shard_0042"),
            ("REPLACE INTO t SELECT REPLACE(a, 'x', 'y') FROM u", "REPLACE t SELECT u"),
            ("", ""),
            ("bob's 3 secrets", ""),
        ];
        for (sql, summary) in table {
            assert_eq!(read(sql, PG).summary, summary, "{sql}");
        }
        assert_eq!(read("INSERT INTO `shop`.`orders` VALUES (1)", MY).summary, "INSERT shop.orders");
    }

    #[test]
    fn operation_and_table_are_told_apart_where_they_are_one() {
        let tell = |sql: &str| {
            let query = read(sql, PG);
            (query.operation().to_owned(), query.collection().map(str::to_owned))
        };
        let some = |operation: &str, name: &str| (operation.to_owned(), Some(name.to_owned()));
        assert_eq!(tell("SELECT * FROM a.b"), some("SELECT", "a.b"));
        assert_eq!(tell("CREATE TABLE t (a int)"), some("CREATE TABLE", "t"));
        assert_eq!(tell("SELECT * FROM a, b"), ("SELECT".to_owned(), None));
        assert_eq!(tell("SELECT * FROM a UNION SELECT 1"), ("SELECT".to_owned(), None));
        assert_eq!(tell("nothing of SQL"), (String::new(), None));
    }

    #[test]
    fn a_cut_shows_no_literal_and_no_half_name() {
        let whole = "SELECT a FROM orders o WHERE b IN ('sec''ret', 'secret') AND c = $t$secret$t$ AND d = \"secret";
        for length in 0..whole.len() {
            let query = Query::read(&whole.as_bytes()[..length], true, PG).0;
            assert!(!query.text.contains("sec"), "{length}: {query:?}");
            assert!(["", "SELECT", "SELECT orders"].contains(&query.summary.as_str()), "{length}: {query:?}");
        }
        let cut = |sql: &str| Query::read(sql.as_bytes(), true, PG).0;
        assert_eq!(cut("SELECT a FROM shop.ord").summary, "SELECT");
        assert_eq!(cut("INSERT INTO t VALUES (1, now()), (2, no").text, "INSERT INTO t VALUES (?, now())");
        assert_eq!(cut("SELECT E'\\").text, "SELECT ?");
    }

    #[test]
    fn the_callers_context_is_taken_from_a_comment() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let sql = format!("SELECT 1 /*action='x',traceparent='{trace}'*/");
        let (query, context) = Query::read(sql.as_bytes(), false, PG);
        assert_eq!((query.text.as_str(), context.map(|context| context.parent[0])), ("SELECT ?", Some(0xb7)));
        assert_eq!(Query::read(&sql.as_bytes()[..sql.len() - 20], true, PG).1, None);
        assert_eq!(Query::read(format!("SELECT '/*traceparent='{trace}'*/'").as_bytes(), false, PG).1, None);
    }

    #[test]
    fn what_was_not_used_for_longest_loses_its_text_and_then_its_name() {
        let mut statements = Statements::<{ 24 * 1024 }>::default();
        let query = Arc::new(read(&format!("SELECT {} FROM t", "abc, ".repeat(180)), PG));
        let known = |statements: &mut Statements<_>, number: u64| statements.find(number).map(|query| query.has_text());
        for number in 0..30 {
            statements.keep(number, Arc::clone(&query));
            assert_eq!(known(&mut statements, 0), Some(true));
        }
        assert_eq!((known(&mut statements, 1), known(&mut statements, 29)), (Some(false), Some(true)));
        for number in 30..135 {
            statements.keep(number, Arc::clone(&query));
        }
        assert_eq!((known(&mut statements, 2), known(&mut statements, 134)), (None, Some(true)));
        assert!(statements.held_bytes() <= 28 * 1024, "{}", statements.held_bytes());
        statements.forget(134);
        assert_eq!(known(&mut statements, 134), None);
    }

    #[test]
    fn sqlstates_tell_whose_fault_it_is() {
        for (sqlstate, is_fault) in
            [("42P01", true), ("23505", true), ("57014", true), ("57P01", false), ("40001", false), ("", false)]
        {
            assert_eq!(blames_client(sqlstate.as_bytes()), is_fault, "{sqlstate}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_long(sql in prop::collection::vec(any::<u8>(), 0..1500), is_cut: bool, dialect in prop::sample::select(vec![PG, MY, Dialect::MySqlPlainBackslash])) {
            let (query, _) = Query::read(&sql, is_cut, dialect);
            prop_assert!(query.text.len() <= TEXT_BYTES_MAX && query.summary.len() <= SUMMARY_BYTES_MAX);
        }

        /// Whatever stands around a literal, and wherever the query is cut.
        #[test]
        fn no_literal_comes_out(
            before in "(SELECT |INSERT INTO t VALUES \\(|[a-z =(,.]|/\\*|\\*/ |-- |\n| IN \\(|\\$1|\"q\"|'it''s'|'x'){0,9}",
            after in "[a-z' =),;]{0,9}",
            cut in 0_usize..80,
        ) {
            // A comment that is open at the literal may hide its first quote: what counts is that the literal is not shown.
            let sql = format!("{before} 'QZQZ'{after}");
            let cut = cut.min(sql.len());
            let open = before.contains("/*") || before.contains("--") || before.contains("*/");
            for (sql, is_cut) in [(sql.as_str(), false), (&sql[..cut], true)] {
                for dialect in [PG, MY] {
                    let (query, _) = Query::read(sql.as_bytes(), is_cut, dialect);
                    prop_assert!(open || !query.text.contains("QZ"), "{sql} {query:?}");
                    prop_assert!(open || !query.summary.contains("QZ"), "{sql} {query:?}");
                }
            }
        }
    }
}
