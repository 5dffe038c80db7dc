//! What a tenant uses is known through all gateways and over their restarts: its quota of bytes holds, and its bill is exact.

use crate::otlp::{Call, PROTOBUF, Signal, logs};
use anyhow::{Result, bail, ensure};
use ollystack_tests::{Answer, Gateway, Key, Outcome, World, until};
use tonic::Code;
use tonic_types::StatusExt;

/// Of a month, so that no midnight spoils it.
const BYTES_PER_MONTH: usize = 40_000;

/// Requests that were taken, and their bytes.
#[derive(Default)]
struct Taken {
    requests: usize,
    bytes: usize,
}

const LINES: usize = 10;

impl Taken {
    fn send(&mut self, gateway: &Gateway, key: &Key) -> Result<Answer> {
        let body = logs("acme", (0..LINES).map(|i| format!("line {i} {}", "x".repeat(400))));
        let answer = gateway.post("/v1/logs", Some(key), &[PROTOBUF], &body)?;
        if answer.status == 200 {
            self.requests += 1;
            self.bytes += body.len();
        }
        Ok(answer)
    }

    fn until_refused(&mut self, gateway: &Gateway, key: &Key) -> Result<Answer> {
        until("the quota of bytes is used up", || {
            let answer = self.send(gateway, key)?;
            Ok((answer.status != 200).then_some(answer))
        })
    }
}

pub(crate) fn is_shared_by_gateways_outlives_them_and_is_what_was_stored(world: &World) -> Result<Outcome> {
    let config = world.gateway()?.set("tenants.bytes_per_month", &BYTES_PER_MONTH.to_string());
    let mut first = config.start(world.binaries())?;
    first.wait_until_the_schema_is_there()?;
    let (key, modest) = (first.new_key("acme")?, first.new_key("modest")?);

    let mut taken = Taken::default();
    let refused = taken.until_refused(&first, &key)?;
    ensure!((BYTES_PER_MONTH..BYTES_PER_MONTH + 10_000).contains(&taken.bytes), "{} bytes were taken", taken.bytes);
    let reason = "tenant acme has used the 40000 bytes that it may send a month; again after ";
    ensure!(refused.status == 429 && refused.text().contains(reason), "{} {}", refused.status, refused.text());
    let seconds: u64 = refused.header("retry-after").unwrap_or_default().parse()?;
    ensure!((1..=300).contains(&seconds), "Retry-After is {seconds}: a quota that is raised should be noticed");
    let address = first.grpc();
    let Err(status) = Call::to(&address, Signal::Logs).with_key(&key.secret).send(Signal::Logs.one("acme"))? else {
        bail!("over quota, and accepted by gRPC");
    };
    ensure!(status.code() == Code::ResourceExhausted && status.message().contains(reason), "{status:?}");
    ensure!(status.get_error_details().retry_info().is_some(), "final for a client, though it may come again");
    ensure!(Taken::default().send(&first, &modest)?.status == 200, "another tenant's quota was touched");
    let used = first.metric("ollystack_tenant_quota_used_bytes", &["acme", "period=\"month\""])?;
    ensure!(used == taken.bytes as f64, "{used} bytes are shown as used, {} were taken", taken.bytes);

    let reported = |bytes: usize| {
        until("what was used is told to others", || {
            let known = world.count("SELECT sum(Bytes) FROM {db}.tenant_usage WHERE TenantId = 'acme'")?;
            ensure!(known <= bytes as u64, "{known} bytes are told, {bytes} were taken");
            Ok((known == bytes as u64).then_some(()))
        })
    };
    reported(taken.bytes)?;
    first.process().kill()?;
    first.restart()?;
    taken.until_refused(&first, &key)?;

    let mut second = world.gateway()?.set("tenants.bytes_per_month", &BYTES_PER_MONTH.to_string());
    second = second.set("keys.file", &format!("{:?}", config.folder.join("keys.toml")));
    second.folder = world.folder().join("second gateway");
    let mut second = second.start(world.binaries())?;
    taken.until_refused(&second, &key)?;

    let raise = config.command(world.binaries(), &["tenants", "set", "acme", "bytes_per_month=1_000_000"])?.output()?;
    ensure!(raise.status.success(), "tenants set: {}", String::from_utf8_lossy(&raise.stderr));
    for gateway in [&first, &second] {
        until("a quota that was raised holds", || Ok((taken.send(gateway, &key)?.status == 200).then_some(())))?;
    }

    // A stop leaves nothing out of the bill.
    for gateway in [&mut first, &mut second] {
        let status = gateway.stop()?;
        ensure!(status.success(), "the gateway ended with {status}");
    }
    let bill = "SELECT sum(Bytes), sum(Received) - sum(Rejected) - sum(Refused), sum(Stored), sum(RequestsRefused) >= 5, \
                any(Plan) FROM {db}.tenant_usage WHERE TenantId = 'acme' AND Signal = 'logs'";
    let records = taken.requests * LINES;
    let expected = format!("{}\t{records}\t{records}\t1\t", taken.bytes);
    let found = world.sql(bill)?;
    ensure!(found.trim_end() == expected.trim_end(), "the bill says {found:?}, taken were {expected:?}");
    let rows = world.count("SELECT count() FROM {db}.logs_raw WHERE TenantId = 'acme'")?;
    ensure!(rows == records as u64, "{rows} rows of {records} records");
    Ok(Outcome::Held)
}
