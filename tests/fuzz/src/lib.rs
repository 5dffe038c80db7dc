//! Every fuzz target. Those that need a crate's insides lie beside them in its folder `fuzz`; those that stand on what is public, here.
//!
//! A target takes any bytes and must neither panic nor break the invariants it states. Its corpus is committed under
//! `tests/fuzz/corpus/NAME` and runs with every test run; `cargo xtask fuzz NAME` looks for more.

mod processing;
mod text;

/// One of them.
#[derive(Debug)]
pub struct Target {
    /// As on the command line, and the folder of its corpus.
    pub name: &'static str,
    /// Whose bytes they are.
    pub shows: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
}

/// All, in the order of the datum's way.
pub const TARGETS: &[Target] = &[
    Target { name: "ebpf-records", shows: "records of the kernel's rings", run: ollystack_input_ebpf::fuzz::records },
    Target {
        name: "protocol-http1",
        shows: "a conversation in HTTP/1.x, as the kernel may tell it",
        run: ollystack_protocols::fuzz::http1,
    },
    Target {
        name: "protocol-http2",
        shows: "a conversation in HTTP/2 or gRPC, as the kernel may tell it",
        run: ollystack_protocols::fuzz::http2,
    },
    Target {
        name: "protocol-amqp",
        shows: "a conversation in AMQP 0-9-1, as the kernel may tell it",
        run: ollystack_protocols::fuzz::amqp,
    },
    Target {
        name: "protocol-dns",
        shows: "a conversation in DNS, as the kernel may tell it",
        run: ollystack_protocols::fuzz::dns,
    },
    Target {
        name: "protocol-kafka",
        shows: "a conversation in Kafka, as the kernel may tell it",
        run: ollystack_protocols::fuzz::kafka,
    },
    Target {
        name: "protocol-mongodb",
        shows: "a conversation in MongoDB, as the kernel may tell it",
        run: ollystack_protocols::fuzz::mongodb,
    },
    Target {
        name: "protocol-nats",
        shows: "a conversation in NATS, as the kernel may tell it",
        run: ollystack_protocols::fuzz::nats,
    },
    Target {
        name: "protocol-postgresql",
        shows: "a conversation in PostgreSQL, as the kernel may tell it",
        run: ollystack_protocols::fuzz::postgresql,
    },
    Target {
        name: "protocol-mysql",
        shows: "a conversation in MySQL, as the kernel may tell it",
        run: ollystack_protocols::fuzz::mysql,
    },
    Target {
        name: "protocol-redis",
        shows: "a conversation in Redis, as the kernel may tell it",
        run: ollystack_protocols::fuzz::redis,
    },
    Target { name: "btf", shows: "the kernel's type information", run: ollystack_input_ebpf::fuzz::btf },
    Target {
        name: "log-file",
        shows: "log files: lines, containers' framings, stack traces",
        run: ollystack_input_logs::fuzz::file,
    },
    Target { name: "journal-entry", shows: "lines of journalctl", run: ollystack_input_journald::fuzz::entry },
    Target {
        name: "otlp-protobuf",
        shows: "OTLP as protobuf, beside prost's own decoding",
        run: ollystack_receive::fuzz::protobuf,
    },
    Target {
        name: "columns",
        shows: "OTLP as protobuf straight to columns, beside the way through messages and rows",
        run: ollystack_gateway::fuzz::columns,
    },
    Target { name: "otlp-json", shows: "OTLP as JSON", run: ollystack_receive::fuzz::json },
    Target { name: "compressed", shows: "gzip and zstd bodies", run: ollystack_receive::fuzz::compressed },
    Target { name: "log-line", shows: "a log line: time, severity, pattern, secrets", run: text::log_line },
    Target { name: "tracestate", shows: "W3C tracestate", run: ollystack_sample::fuzz::tracestate },
    Target {
        name: "processing",
        shows: "an OTLP request through all of processing; the ledger closes",
        run: processing::request,
    },
    Target { name: "checkpoint", shows: "a checkpoint of open windows", run: processing::checkpoint },
    Target { name: "segment", shows: "a damaged segment of the disk buffer", run: ollystack_buffer::fuzz::segment },
    Target { name: "frozen", shows: "an entry of the disk buffer", run: ollystack_export::fuzz::frozen },
    Target { name: "answer", shows: "what an endpoint answers", run: ollystack_export::fuzz::answer },
    Target { name: "statement", shows: "SQL on its way to the embedded engine", run: ollystack_store::fuzz::statement },
    Target {
        name: "store-body",
        shows: "compressed bodies on their way to the embedded engine",
        run: ollystack_store::fuzz::body,
    },
    Target { name: "recording", shows: "a recorded host", run: ollystack_recording::fuzz::recording },
];
