//! What runtimes print, and where one record ends and the next begins.

use super::*;
use proptest::prelude::*;

/// Records of a text; blank lines are left out, as inputs do.
fn records(text: &str) -> Vec<Vec<&str>> {
    let mut records: Vec<Vec<&str>> = Vec::new();
    let mut shape: Option<Shape> = None;
    for line in text.lines().filter(|line| !line.is_empty()) {
        shape = match (shape.and_then(|shape| shape.with(line.as_bytes())), records.last_mut()) {
            (Some(shape), Some(record)) => {
                record.push(line);
                Some(shape)
            }
            _ => {
                records.push(vec![line]);
                Some(Shape::head(line.as_bytes()))
            }
        };
    }
    records
}

/// The trace between two ordinary lines is one record, alone or with the log line above it.
fn is_one(trace: &str) {
    let trace = trace.trim_matches('\n');
    let text = format!("2026-11-20 09:00:00 INFO before\n{trace}\n2026-11-20 09:00:01 INFO after\n");
    let found = records(&text);
    let lines = trace.lines().filter(|line| !line.is_empty()).count();
    let sizes: Vec<usize> = found.iter().map(Vec::len).collect();
    assert!(sizes == [1, lines, 1] || sizes == [1 + lines, 1], "{found:#?}");
    assert_eq!(records(&format!("{trace}\nnext\n")).len(), 2, "alone: {trace}");
}

#[test]
fn a_stack_trace_of_any_runtime_is_one_record() {
    // Java, with causes and suppressed ones.
    is_one(
        "2026-11-20 09:12:07,123 ERROR [main] org.acme.Shop - cannot store order
java.lang.IllegalStateException: no stock
\tat org.acme.Shop.store(Shop.java:12)
\tat org.acme.Shop.main(Shop.java:3)
\tSuppressed: java.io.IOException: closed
\t\tat org.acme.Db.close(Db.java:9)
Caused by: java.sql.SQLException: timeout
\tat org.acme.Db.query(Db.java:7)
\t... 12 more
Caused by: java.net.SocketTimeoutException
... 14 more",
    );
    is_one("Exception in thread \"main\" java.lang.NullPointerException\n\tat org.acme.Main.main(Main.java:3)");
    // Python: logged, chained both ways, with 3.11's markers.
    is_one(
        "ERROR:root:cannot store order
Traceback (most recent call last):
  File \"/srv/shop.py\", line 7, in store
    stock[order] -= 1
    ~~~~~^^^^^^^
KeyError: 42

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File \"/srv/shop.py\", line 9, in <module>
    raise Shop(\"no\") from None
shop.Shop: no

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File \"/srv/shop.py\", line 11, in <module>
ValueError: bad",
    );
    // Go: a panic and all goroutines, a fault with registers, a stack printed after a log line.
    is_one(
        "panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x48f5a4]

goroutine 1 [running]:
main.(*Shop).Store(0x0, {0xc000012345, 0x5})
\t/srv/shop.go:12 +0x1d
main.main()
\t/srv/main.go:5 +0x2a

goroutine 18 [select, 2 minutes]:
net/http.(*conn).serve(0xc0000b2000)
\t/usr/lib/go/net/http/server.go:1991 +0x607
created by net/http.(*Server).Serve in goroutine 1
\t/usr/lib/go/net/http/server.go:3102 +0x4db

rax    0x0
r10    0xc000
exit status 2",
    );
    is_one(
        "2026/11/20 09:12:07 http: panic serving 10.0.0.1:4242: boom
goroutine 34 [running]:
net/http.(*conn).serve.func1()
\t/usr/lib/go/net/http/server.go:1868 +0xb9",
    );
    is_one(
        "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [chan receive]:\nmain.main()\n\t/srv/main.go:5 +0x2a",
    );
    // .NET.
    is_one(
        "Unhandled exception. System.InvalidOperationException: no stock
 ---> System.TimeoutException: db
   at Shop.Db.Query() in /srv/Db.cs:line 7
   --- End of inner exception stack trace ---
--- End of stack trace from previous location ---
   at Shop.Program.Main() in /srv/Program.cs:line 3",
    );
    // Node.js: logged with an object behind it, and uncaught.
    is_one(
        "Error: connect ECONNREFUSED 127.0.0.1:5432
    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1555:16) {
  errno: -111,
  code: 'ECONNREFUSED'
}",
    );
    is_one(
        "/srv/shop.js:3
    throw new Error('boom');
    ^

Error: boom
    at Object.<anonymous> (/srv/shop.js:3:11)",
    );
    // Ruby, as the interpreter and as Rails print it.
    is_one("shop.rb:3:in `store': no stock (RuntimeError)\n\tfrom shop.rb:7:in `<main>'");
    is_one(
        "RuntimeError (no stock):\n  \napp/models/order.rb:7:in `block in pay'\napp/controllers/orders.rb:3:in `create'",
    );
    // Rust, before and after 1.73.
    is_one(
        "thread 'main' panicked at src/main.rs:2:5:
index out of bounds: the len is 1 but the index is 7
stack backtrace:
   0: rust_begin_unwind
             at /rustc/x/library/std/src/panicking.rs:645:5
note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.",
    );
    is_one(
        "thread 'main' panicked at 'boom', src/main.rs:2:5\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
    );
    // PHP.
    is_one(
        "PHP Fatal error:  Uncaught Exception: no stock in /srv/shop.php:12
Stack trace:
#0 /srv/index.php(3): buy()
#1 {main}
  thrown in /srv/shop.php on line 12",
    );
    // Anything printed over lines.
    is_one("2026-11-20 09:12:07 ERROR: syntax error\n\tSELECT *\n\tFROM orders");
    is_one("{\n  \"level\": \"error\",\n  \"items\": [\n    1\n  ]\n}");
}

#[test]
fn what_only_stands_below_it_is_another_record() {
    let apart = [
        // Two exceptions in a row, two panics, two tracebacks that are no chain.
        "java.lang.AError: x\njava.lang.BError: y",
        "panic: a\npanic: b",
        "Traceback (most recent call last):\nKeyError: 1\nTraceback (most recent call last):\nKeyError: 2",
        // Sentences about exceptions.
        "INFO a\nan Exception: occurred",
        "INFO a\nThe error is gone",
        "INFO a\n#hashtag",
        "INFO a\n} else {",
        "INFO a\nnote: fine",
        // A line that is whole takes nothing, and indented lines without a head stay apart.
        "{\"level\":\"info\"}\n  indented",
        "  one\n  two",
        "main.go ran (well)\nmain.f(x)",
    ];
    for text in apart {
        let first = text.lines().next().unwrap();
        let sizes: Vec<usize> = records(text).iter().map(Vec::len).collect();
        let expected = if first.starts_with("Traceback") { vec![2, 2] } else { vec![1, 1] };
        assert_eq!(sizes, expected, "{text}");
    }
}

#[test]
fn a_record_whose_beginning_a_limit_cut_off_goes_on_with_its_indented_lines() {
    assert_eq!(Body.with(b"\tat org.acme.Shop.main(Shop.java:3)"), Some(Body));
    assert_eq!(Body.with(b"2026-11-20 INFO next"), None);
}

proptest! {
    #[test]
    fn no_line_makes_it_fail_and_an_ordinary_line_always_begins_a_record(
        lines in proptest::collection::vec("[ \\tTpgt#{}^'.:(a-c]{0,12}|panic: x|goroutine 1 \\[r\\]:|\\PC{0,20}", 0..20)
    ) {
        let mut shape = Shape::Line;
        for line in &lines {
            shape = shape.with(line.as_bytes()).unwrap_or_else(|| Shape::head(line.as_bytes()));
        }
        if !matches!(shape, Traceback | Unfinished) {
            prop_assert_eq!(shape.with(b"2026-11-20 09:00:00 INFO order stored"), None);
        }
    }
}
