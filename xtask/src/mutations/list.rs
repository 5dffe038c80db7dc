//! The mutations: each a line of the product whose loss would break a promise, and the test that must go red without it.
//!
//! Each was seen red.

use super::{Mutation, Test};

const fn test(package: &'static str, target: &'static [&'static str]) -> Test {
    Test { package, target, programs: &[], arguments: &[] }
}

const fn torture(arguments: &'static [&'static str]) -> Test {
    Test { package: "ollystack-tests", target: &["--test", "torture"], programs: &[], arguments }
}

const POWER: Test = torture(&["power", "--cycles", "1000", "--seed", "1"]);
/// Every rename of an agent, and a state of its disk.
const POWER_AGENT: Test = Test {
    programs: &["ollystack-agent", "ollystack-gateway"],
    ..torture(&["power-agent", "--cycles", "1", "--seed", "1"])
};
/// Every sync of a workload, in turn.
const ANSWERS: Test = torture(&["io-answers", "--cycles", "1"]);
const BUFFER: &str = "ollystack-buffer";
const MODEL: Test = test(BUFFER, &["--test", "model"]);
const DAMAGE: Test = test(BUFFER, &["--test", "damage"]);
const FULL_DISK: Test = test(BUFFER, &["--test", "full_disk"]);
const CAP: Test = test(BUFFER, &["--test", "cap"]);
const GATEWAY: Test = test("ollystack-gateway", &["--lib"]);
const EXPORT: Test = test("ollystack-export", &["--tests"]);
const LOGS: Test = test("ollystack-input-logs", &["--tests"]);
const OTLP: Test = test("ollystack-input-otlp", &["--tests"]);

pub(super) const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "commits-not-synced",
        breaks: "a put is answered while the disk does not have it",
        file: "agent/buffer/src/segment.rs",
        text: "connection.pragma_update(None, \"synchronous\", \"FULL\")?;",
        replacement: "connection.pragma_update(None, \"synchronous\", \"OFF\")?;",
        caught_by: POWER,
    },
    Mutation {
        name: "commits-synced-later",
        breaks: "a put is answered before the checkpoint that brings it to the disk",
        file: "agent/buffer/src/segment.rs",
        text: "connection.pragma_update(None, \"synchronous\", \"FULL\")?;",
        replacement: "connection.pragma_update(None, \"synchronous\", \"NORMAL\")?;",
        caught_by: POWER,
    },
    Mutation {
        name: "buffer-name-not-synced",
        breaks: "a new buffer goes with the name of its directory",
        file: "agent/buffer/src/recovery.rs",
        text: "for above in whole.ancestors().skip(1) {",
        replacement: "for above in whole.ancestors().take(0) {",
        caught_by: POWER,
    },
    Mutation {
        name: "ids-not-synced",
        breaks: "an id is given twice when the power goes after all was acked",
        file: "agent/buffer/src/state.rs",
        text: "HEADER_BYTES)?;\n        self.file.sync_data()",
        replacement: "HEADER_BYTES)",
        caught_by: ANSWERS,
    },
    Mutation {
        name: "wal-name-not-synced",
        breaks: "a folder's sync fails unseen, and a WAL goes with its name",
        file: "agent/buffer/src/segment.rs",
        text: "crate::recovery::sync_directory(self.path.parent().unwrap_or(Path::new(\".\")))?;",
        replacement: "",
        caught_by: ANSWERS,
    },
    Mutation {
        name: "failed-commit-acknowledged",
        breaks: "a put that failed is answered with ids",
        file: "agent/buffer/src/commit.rs",
        text: "pending[put].error = Some(error.clone());",
        replacement: "pending[put].error = None;",
        caught_by: FULL_DISK,
    },
    Mutation {
        name: "answered-before-commit",
        breaks: "a put is answered and rolled back",
        file: "agent/buffer/src/segment.rs",
        text: "transaction.commit()\n",
        replacement: "Ok(())\n",
        caught_by: MODEL,
    },
    Mutation {
        name: "checksums-unread",
        breaks: "damaged bytes are sent as if they were what was put",
        file: "agent/buffer/src/segment.rs",
        text: "if checksum(id, class, &entry) != expected.cast_unsigned() {",
        replacement: "if expected == 0 {",
        caught_by: DAMAGE,
    },
    Mutation {
        name: "lost-tail-untold",
        breaks: "what a damaged WAL held is lost in silence",
        file: "agent/buffer/src/recovery.rs",
        text: "            store.lost(&lost, Loss::Corrupt);\n",
        replacement: "",
        caught_by: DAMAGE,
    },
    Mutation {
        name: "eviction-untold",
        breaks: "what was evicted is lost in silence",
        file: "agent/buffer/src/store.rs",
        text: "        self.lost(&lost, reason);\n        lost\n",
        replacement: "        lost\n",
        caught_by: CAP,
    },
    Mutation {
        name: "eviction-uncounted",
        breaks: "the ledger does not know what the buffer evicted",
        file: "agent/export/src/books.rs",
        text: "        self.0.dropped(signal, reason, records);\n",
        replacement: "",
        caught_by: EXPORT,
    },
    Mutation {
        name: "drop-uncounted",
        breaks: "the ledger does not know what the disk refused",
        file: "agent/export/src/freeze.rs",
        text: "                    self.ledger.dropped(signal, reason, records);\n",
        replacement: "",
        caught_by: EXPORT,
    },
    Mutation {
        name: "refused-put-durable",
        breaks: "inputs are told that the disk has what it refused",
        file: "agent/export/src/freeze.rs",
        text: "                    Outcome::Dropped\n",
        replacement: "                    Outcome::Durable\n",
        caught_by: EXPORT,
    },
    Mutation {
        name: "otlp-answered-first",
        breaks: "an OTLP sender is answered before the disk has its records",
        file: "agent/inputs/otlp/src/service.rs",
        text: "timeout_at(begun + self.ack_timeout, pending.outcome()).await;",
        replacement: "timeout_at(begun + self.ack_timeout, async { drop(pending); Outcome::Durable }).await;",
        caught_by: OTLP,
    },
    Mutation {
        name: "offset-before-ack",
        breaks: "a log file's offset is saved before its lines are on disk",
        file: "agent/inputs/logs/src/tail.rs",
        text: "let (mark, done) = (self.committed, self.done.clone());",
        replacement: "let (mark, done) = (self.position, self.done.clone());",
        caught_by: LOGS,
    },
    Mutation {
        name: "offsets-name-not-synced",
        breaks: "the power takes the latest log offsets, and lines are read again",
        file: "agent/inputs/logs/src/offsets.rs",
        text: "        File::open(&self.folder)?.sync_all()\n",
        replacement: "        Ok(())\n",
        caught_by: POWER_AGENT,
    },
    Mutation {
        name: "checkpoint-not-synced",
        breaks: "the power leaves a checkpoint, or an agent's id, of zeros",
        file: "agent/src/state.rs",
        text: "    file.sync_all()?;\n",
        replacement: "",
        caught_by: POWER_AGENT,
    },
    Mutation {
        name: "checkpoint-name-not-synced",
        breaks: "the power brings back a checkpoint of windows that have left",
        file: "agent/src/state.rs",
        text: "    File::open(dir)?.sync_all()\n",
        replacement: "    Ok(())\n",
        caught_by: POWER_AGENT,
    },
    Mutation {
        name: "gateway-answers-first",
        breaks: "the gateway answers before a row is written",
        file: "gateway/src/ingest.rs",
        text: "not_safe(verdict.fate().await)?;",
        replacement: "drop(verdict);",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "redelivery-unasked",
        breaks: "a batch that arrived before is written again",
        file: "gateway/src/ingest.rs",
        text: "Some((identity, age)) => self.arrived(identity, age).await?,",
        replacement: "Some(_) => false,",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "identity-token-left-out",
        breaks: "two repetitions of a batch through two gateways count twice",
        file: "gateway/src/batch.rs",
        text: "repeated.map(|kept| kept.under_way.identity().token());",
        replacement: "repeated.and(None);",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "token-not-sent",
        breaks: "a block that is sent again counts twice",
        file: "gateway/src/write/clickhouse.rs",
        text: "            .with_setting(\"insert_deduplication_token\", &block.head.token)\n",
        replacement: "",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "insert-ended-late",
        breaks: "a gateway that stood still sends an insert to its end after another one has repeated it",
        file: "gateway/src/write/clickhouse.rs",
        text: "const FIRST_PIECE_BYTES: usize = 1;",
        replacement: "const FIRST_PIECE_BYTES: usize = PIECE_BYTES;",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "spill-failure-safe",
        breaks: "rows that neither ClickHouse nor the disk took are answered as safe",
        file: "gateway/src/write.rs",
        text: "                frozen.settle(Fate::Doubtful);\n            }\n        }\n    }\n\n    /// Keep a block",
        replacement: "                frozen.settle_on_disk();\n            }\n        }\n    }\n\n    /// Keep a block",
        caught_by: GATEWAY,
    },
    Mutation {
        name: "reserve-kept",
        breaks: "what arrived is given again after a crash on a full disk",
        file: "agent/buffer/src/store.rs",
        text: "if matches!(flushed, Err(Error::DiskFull { .. })) && self.give_up_reserve() {",
        replacement: "if matches!(flushed, Err(Error::DiskFull { .. })) && self.reserve_bytes == 0 && self.give_up_reserve() {",
        caught_by: FULL_DISK,
    },
];
