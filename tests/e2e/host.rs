//! Host metrics arrive folded and true: a window's count, min, max, sum and last agree with each other and with what the kernel
//! says; counters arrive as increases.

use anyhow::{Context, Result, ensure};
use ollystack_tests::{Outcome, World, until};

pub(crate) fn metrics_arrive_folded_and_true(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    // Constants show window by window, too.
    let config = world.agent(&gateway, "acme")?.set("host.enabled", "true").set("metrics.constant_ms", "0");
    let config = config.set("host.interval_ms", "100");
    let agent = config.start(world.binaries())?;
    let windows = "SELECT count() FROM {db}.metrics_raw WHERE MetricName = 'system.memory.limit' AND Count > 1";
    until("a few windows have arrived", || Ok((world.count(windows)? >= 3).then_some(())))?;

    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .context("MemTotal")?;
    let limit = world.sql(
        "SELECT uniqExact(Value), any(toUInt64(Value)), min(toUInt64(Min)), max(toUInt64(Max)), \
         countIf(abs(Sum - Count * Value) > 1) FROM {db}.metrics_raw WHERE MetricName = 'system.memory.limit'",
    )?;
    let bytes = total * 1024;
    ensure!(limit == format!("1\t{bytes}\t{bytes}\t{bytes}\t0"), "MemTotal is {bytes}, the table says {limit}");

    let broken = world.sql(
        "SELECT MetricName, Count, Min, Value, Max, Sum FROM {db}.metrics_raw \
         WHERE MetricType = 'gauge' AND Count > 0 AND (Min > Value OR Value > Max OR Sum < Min * Count - 1e-6 * abs(Sum) \
         OR Sum > Max * Count + 1e-6 * abs(Sum)) LIMIT 5",
    )?;
    ensure!(broken.is_empty(), "folds that contradict themselves:\n{broken}");
    let sums = world.sql(
        "SELECT MetricName, AggregationTemporality, Value FROM {db}.metrics_raw WHERE MetricType = 'sum' AND IsMonotonic \
         AND (AggregationTemporality != 'delta' OR Value < 0) LIMIT 5",
    )?;
    ensure!(sums.is_empty(), "counters that are no increases:\n{sums}");
    // One CPU's time grows by no more than time does: over all states, at most a second a second, and a tick.
    let busiest: f64 = world
        .sql(
            "SELECT max(spent) FROM (SELECT s.Attributes['cpu.logical_number'] AS cpu, r.TimeUnix, \
             sum(r.Value) / ((toUnixTimestamp64Nano(any(r.TimeUnix)) - toUnixTimestamp64Nano(any(r.StartTimeUnix))) / 1e9 + 0.1) AS spent \
             FROM {db}.metrics_raw AS r JOIN (SELECT DISTINCT SeriesHash, Attributes FROM {db}.metrics_series) AS s \
             USING (SeriesHash) WHERE MetricName = 'system.cpu.time' AND r.TimeUnix > r.StartTimeUnix GROUP BY cpu, r.TimeUnix)",
        )?
        .parse()
        .context("system.cpu.time has not arrived")?;
    ensure!(busiest > 0.0 && busiest < 1.5, "a CPU worked {busiest} seconds a second");
    for name in
        ["system.cpu.time", "system.memory.usage", "system.disk.io", "system.network.io", "system.filesystem.usage"]
    {
        until(&format!("{name} arrives"), || {
            let rows = world.count(&format!("SELECT count() FROM {{db}}.metrics_raw WHERE MetricName = '{name}'"))?;
            Ok((rows > 0).then_some(()))
        })?;
    }
    let reduced = agent.account("metrics")?;
    ensure!(reduced["folded"].as_u64() > reduced["sent"].as_u64(), "nothing was folded: {reduced}");
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}
