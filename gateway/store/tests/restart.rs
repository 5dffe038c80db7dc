//! What was acknowledged is there after a restart, and a folder has one store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use support::{Running, post};

#[test]
fn a_stopped_store_opens_again_with_its_data_and_keeps_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Running::start(folder.path());
    for statement in
        ["CREATE DATABASE d", "CREATE TABLE d.t (a UInt8) ENGINE = MergeTree ORDER BY a", "INSERT INTO d.t VALUES (7)"]
    {
        let answer = post(store.address, "/", &[], statement.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let second = Running::try_start(folder.path(), |options| options).err().expect("one store a folder");
    assert!(second.to_string().contains("another store has it open"), "{second}");
    store.stop();
    let store = Running::start(folder.path());
    assert_eq!(post(store.address, "/", &[], b"SELECT a FROM d.t").text(), "7\n");
}
