//! Every end-to-end property, one a module: real store, real gateway, real agent, asked through ClickHouse's HTTP interface.
//!
//! All share one store process, each has a database of its own. A failure shows the ends of all logs of its processes.

mod cluster;
mod configuration;
mod coverage;
mod ebpf;
mod full_disk;
mod host;
mod hostile;
mod kafka;
mod kafka_access;
mod keys;
mod ledger;
mod log_files;
mod log_traces;
mod migrations;
mod numbered;
mod offline;
mod once;
mod otlp;
mod outage;
mod partial_success;
mod patterns;
mod patterns_command;
mod quota;
mod redaction;
mod restart;
mod sdk;
mod service_map;
mod sparing;
mod stop;
mod tenants;
mod tiers;
mod treatment;
mod usage;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ollystack_tests::{Binaries, Outcome, Store, StoreConfig, World};
use std::process::ExitCode;
use std::sync::Arc;

type Property = fn(&World) -> Result<Outcome>;

macro_rules! properties {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), $module::$name as Property)),*]
    };
}

/// The properties, by module. The slow ones first, so that they do not end alone; those that watch the host's requests apart, as each waits for
/// the one before.
const PROPERTIES: &[(&str, Property)] = properties![
    full_disk::of_the_gateway_is_refused_work_and_no_loss,
    full_disk::of_the_agent_is_refused_work_and_no_loss,
    ebpf::sees_each_http_request_once,
    kafka::keeps_each_record_once_whoever_is_killed,
    kafka_access::by_tls_and_scram_is_named_when_it_is_wrong_and_loses_nothing,
    kafka_access::by_a_password_is_named_when_it_is_wrong_and_loses_nothing,
    kafka_access::by_rights_is_named_for_each_that_a_user_lacks_and_comes_with_them,
    outage::loses_and_doubles_nothing,
    offline::keeps_and_delivers_once,
    once::through_another_gateway_and_over_an_outage,
    once::through_a_clusters_tables,
    log_traces::are_those_of_the_requests_that_the_lines_are_about,
    restart::kills_in_a_row_double_nothing_and_no_loss_is_silent,
    restart::a_stop_goes_on_where_levels_and_totals_were,
    restart::a_kill_takes_what_came_after_the_checkpoint_and_no_total,
    ledger::is_one_query_that_says_what_was_seen_sent_stored_and_lost_and_why,
    service_map::tells_each_edge_once_and_invents_none,
    ledger::closes_over_kills_and_stops_and_never_goes_down,
    ledger::of_the_gateway_says_what_clickhouse_holds,
    sdk::reaches_the_gateway_by_grpc,
    sdk::reaches_the_gateway_by_http,
    coverage::of_processes_says_who_is_seen_and_why_others_are_not,
    sdk::reaches_the_agent_by_grpc,
    sdk::reaches_the_agent_by_http,
    host::metrics_arrive_folded_and_true,
    redaction::no_secret_reaches_disk_or_store,
    patterns::fold_a_log_without_losing_count_of_a_line,
    patterns::fold_what_comes_by_otlp_and_answer_when_it_is_safe,
    log_files::rotation_and_restart_lose_and_double_no_line,
    log_files::a_kill_loses_and_doubles_no_line,
    log_files::a_file_that_vanishes_is_no_trouble_for_the_others,
    stop::of_the_gateway_writes_what_it_took,
    stop::of_the_agent_sends_or_keeps_what_it_took,
    stop::of_the_agent_is_in_order_however_and_whenever_it_is_told,
    keys::only_a_valid_key_gets_in,
    keys::can_be_changed_for_others_while_both_are_valid_and_every_act_is_on_record,
    hostile::is_answered_exactly,
    partial_success::names_exactly_what_was_left_out,
    quota::says_when_to_come_back,
    sparing::is_asked_of_agents_before_they_are_refused,
    usage::is_shared_by_gateways_outlives_them_and_is_what_was_stored,
    tenants::are_changed_while_it_runs_and_a_broken_file_changes_nothing,
    treatment::samples_for_senders_that_do_not_and_the_ledger_and_the_weights_say_so,
    treatment::takes_out_and_hides_attributes_of_one_tenant_wherever_they_are,
    migrations::a_second_run_changes_nothing,
    migrations::are_left_in_order_on_stop_and_whoever_waits_for_a_killed_gateway_says_so,
    tiers::hold_rows_by_age_and_let_them_expire,
    tiers::are_refused_without_the_policy_or_a_volume,
    tiers::reach_into_object_storage_as_they_are_shipped,
    cluster::is_refused_where_it_cannot_be_or_would_replace_tables,
    patterns_command::of_files_and_streams_are_the_same_and_every_line_has_one,
    configuration::an_unknown_key_is_refused_by_name,
];

struct Shared {
    binaries: Binaries,
    store: Store,
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Most of a test is waiting for processes: more run at a time than there are cores.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    if arguments.list {
        let trials = PROPERTIES.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }
    let binaries = Binaries::beside_this_program()?;
    let folder = tempfile::tempdir()?;
    let store = StoreConfig::new(folder.path())?.start(&binaries);
    let store = store.context("the embedded engine does not start; `cargo xtask check` sets it up")?;
    let shared = Arc::new(Shared { binaries, store });
    let trials = PROPERTIES.iter().map(|(name, property)| {
        let (shared, property) = (shared.clone(), *property);
        Trial::ignorable_test(*name, move || hold(name, property, &shared))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    Ok(conclusion.exit_code())
}

/// Runs one property; a failure carries the logs.
fn hold(name: &str, property: Property, shared: &Shared) -> Result<Completion, Failed> {
    let world = World::new(name, &shared.binaries, &shared.store).map_err(|error| format!("{error:#}"))?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| property(&world)));
    let failure = match outcome {
        Ok(Ok(Outcome::Held)) => return Ok(Completion::Completed),
        Ok(Ok(Outcome::Skipped(reason))) => return Ok(Completion::ignored_with(reason)),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (_, Some(text)) => (*text).to_owned(),
            _ => "panicked".to_owned(),
        },
    };
    Err(format!("{failure}\n{}", world.logs()).into())
}
