//! Real servers and their clients: each request is one span of each side, rightly named and judged, and there is no other.
//!
//! A server runs on loopback, on a free port and in a folder of its own; the input runs in this process, a client in another
//! makes a known list of requests. A server or client that is not installed is told, with the command that installs it.
//! Needs root; otherwise it says so and tests nothing.

mod brokers;
mod case;
mod databases;
mod judge;
mod names;
mod observe;
mod web;

use case::Case;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::process::ExitCode;

/// A test: its name, what has to be installed, and what starts the server.
type Row = (&'static str, &'static [Need], fn(&Path) -> Result<Case, Failed>);

/// A program, or a module of Python, and the command that installs it.
pub(crate) struct Need(&'static str, &'static str);

const ROWS: &[Row] = &[
    ("requests_to_nginx", web::NGINX_NEEDS, web::nginx),
    ("requests_over_http2_to_nginx", web::NGINX_HTTP2_NEEDS, web::nginx_http2),
    ("requests_over_http2_to_nghttpd", web::NGHTTPD_NEEDS, web::nghttpd),
    ("requests_that_upgrade_to_http2", web::UPGRADE_NEEDS, web::upgrade),
    ("calls_of_grpc", web::GRPC_NEEDS, web::grpc),
    ("calls_of_grpc_at_once", web::GRPC_NEEDS, web::grpc_at_once),
    ("statements_of_psql", databases::POSTGRESQL_NEEDS, databases::postgresql),
    ("prepared_statements_of_pgbench", databases::PGBENCH_NEEDS, databases::pgbench),
    ("statements_of_mariadb", databases::MARIADB_NEEDS, databases::mariadb),
    ("commands_of_redis", databases::REDIS_NEEDS, databases::redis),
    ("commands_of_redis_in_one_pipeline", databases::REDIS_NEEDS, databases::redis_pipeline),
    ("commands_of_pymongo", databases::MONGODB_NEEDS, databases::mongodb),
    ("queries_of_dig", names::DNS_NEEDS, names::dnsmasq),
    ("messages_over_kafka", brokers::KAFKA_NEEDS, brokers::kafka),
    ("messages_over_nats", brokers::NATS_NEEDS, brokers::nats),
    ("messages_over_rabbitmq", brokers::RABBITMQ_NEEDS, brokers::rabbitmq),
];

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: real servers were not watched: needs root");
        return ExitCode::SUCCESS;
    }
    let mut trials = Vec::new();
    for (name, needs, start) in ROWS {
        match needs.iter().find(|need| !case::is_installed(need.0)) {
            Some(Need(what, how)) => println!("skipped: {name}: {what} is not installed: {how}"),
            None => {
                let title = format!("{name}_are_one_span_of_each_side");
                trials.push(Trial::test(title, || observe::observe(*start)));
            }
        }
    }
    let mut arguments = Arguments::from_args();
    // One after the other, so that no server waits for the processor of another.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}
