//! The commands that administer: `keys` and `tenants`, on the key file.
//!
//! Invariant: the text of a key goes to standard output once, when it is made, and nowhere else.

use crate::cli::{Keys, Tenants};
use crate::config::Config;
use crate::keys::audit;
use crate::keys::file::{self, KeyFile};
use crate::tenants::{HASH_KEY, Limits};
use crate::{load, print, table, usage};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::SystemTime;
use toml_edit::Value;

/// `keys ...`
pub(crate) fn keys(command: Keys) -> Result<(), Box<dyn Error>> {
    match command {
        Keys::New { configured, tenant, name, valid_for } => {
            let path = load(&configured)?.0.keys_file();
            let key = file::add(&path, &tenant, &name, valid_for, SystemTime::now())?;
            eprintln!("key {} of tenant {tenant}, stored as its hash in {}.", key.id(), path.display());
            eprintln!("This is the only time it is shown. On hosts: OLLYSTACK_API_KEY=<key>.");
            print(&format!("{}\n", key.expose()))?;
        }
        Keys::List { configured } => {
            let path = load(&configured)?.0.keys_file();
            let keys = KeyFile::read(&path)?.keys;
            let head = ["ID", "TENANT", "LABEL", "CREATED", "EXPIRES", "REVOKED"].map(str::to_owned);
            let rows = keys.into_iter().map(|key| {
                let [expires, revoked] = [key.expires, key.revoked].map(|time| time.unwrap_or_default());
                [key.id, key.tenant, key.label, key.created, expires, revoked]
            });
            print(&table(std::iter::once(head).chain(rows).collect()))?;
        }
        Keys::Rotate { configured, id, overlap } => {
            let path = load(&configured)?.0.keys_file();
            let key = file::rotate(&path, &id, overlap, SystemTime::now())?;
            eprintln!(
                "key {} follows key {id}, which stays valid for {} at most.",
                key.id(),
                humantime::format_duration(overlap)
            );
            eprintln!("This is the only time it is shown. On hosts: OLLYSTACK_API_KEY=<key>.");
            print(&format!("{}\n", key.expose()))?;
        }
        Keys::Audit { configured } => {
            let path = load(&configured)?.0.keys_file();
            let log = audit::path_of(&path);
            let audit::Log { lines, problems } = audit::check(&path)
                .map_err(|error| format!("cannot read {}: {error}; the first change makes it", log.display()))?;
            let head = ["TIME", "USER", "LOGIN UID", "ACT", "TENANT", "DETAIL"].map(str::to_owned);
            let rows = lines.into_iter().map(|line| {
                let login = line.login_uid.map(|uid| uid.to_string()).unwrap_or_default();
                [line.time, line.user, login, line.act, line.tenant, line.detail]
            });
            print(&table(std::iter::once(head).chain(rows).collect()))?;
            if !problems.is_empty() {
                return Err(format!("{}: {}", log.display(), problems.join("; ")).into());
            }
        }
        Keys::Revoke { configured, id } => {
            let path = load(&configured)?.0.keys_file();
            match file::revoke(&path, &id, SystemTime::now())? {
                true => print(&format!("key {id} is revoked; running gateways refuse it within a second\n"))?,
                false => print(&format!("key {id} was revoked before\n"))?,
            }
        }
    }
    Ok(())
}

/// `tenants ...`
pub(crate) fn tenants(command: Tenants) -> Result<(), Box<dyn Error>> {
    match command {
        Tenants::List { configured } => {
            let config = load(&configured)?.0;
            print(&list(&config, &KeyFile::read(&config.keys_file())?))?;
        }
        Tenants::Set { configured, name, fields } => {
            let config = load(&configured)?.0;
            file::set_tenant(&config.keys_file(), &name, &fields)?;
            let mut file = KeyFile::read(&config.keys_file())?;
            file.tenants.retain(|tenant, _| *tenant == name);
            file.keys.retain(|key| key.tenant == name);
            print(&list(&config, &file))?;
        }
        Tenants::Remove { configured, name } => {
            let config = load(&configured)?.0;
            file::remove_tenant(&config.keys_file(), &name)?;
            print(&format!(
                "tenant {name} has no section any more: [tenants] of the configuration holds for its keys\n"
            ))?;
        }
    }
    Ok(())
}

/// All tenants that have a section or a key, with what holds for each.
fn list(config: &Config, file: &KeyFile) -> String {
    let mut tenants: BTreeMap<&str, (Limits, u64)> = BTreeMap::new();
    for (name, entry) in &file.tenants {
        tenants.insert(name, (config.tenants.with(entry), 0));
    }
    let now = usage::now();
    for key in file.keys.iter().filter(|key| key.is_valid(now)) {
        tenants.entry(&key.tenant).or_insert((config.tenants, 0)).1 += 1;
    }
    let head = [
        "TENANT",
        "PLAN",
        "KEYS",
        "RECORDS/S",
        "BYTES/DAY",
        "BYTES/MONTH",
        "RETENTION",
        "SAMPLING",
        "SIGNALS",
        "ATTRIBUTES",
    ]
    .map(str::to_owned);
    let rows = tenants.into_iter().map(|(name, (limits, keys))| {
        [
            name.to_owned(),
            limits.plan.map_or("-", |plan| plan.name()).to_owned(),
            keys.to_string(),
            limit(limits.records_per_second),
            limit(limits.bytes_per_day),
            limit(limits.bytes_per_month),
            format!("{} d", limits.retention_days),
            limits.sampling_ratio.to_string(),
            limits.signals.to_string(),
            file.tenants.get(name).map(|entry| entry.fields().to_string()).unwrap_or_default(),
        ]
    });
    table(std::iter::once(head).chain(rows).collect())
}

fn limit(value: u64) -> String {
    if value == 0 { "none".to_owned() } else { value.to_string() }
}

/// `FIELD=VALUE` as the key file has it: a number, a text, or a list of texts; no value takes the field out.
pub(crate) fn field(text: &str) -> Result<(String, Option<Value>), String> {
    let (field, value) = text.split_once('=').ok_or("FIELD=VALUE is expected")?;
    let (field, value) = (field.trim(), value.trim());
    let value = match value.parse::<Value>() {
        _ if value.is_empty() => None,
        _ if field == HASH_KEY => {
            return Err(format!("{HASH_KEY} is a secret, which this command makes when it is needed"));
        }
        _ if (field == "signals" || field.starts_with("attributes_")) && !value.starts_with('[') => {
            Some(Value::Array(value.split(',').map(|signal| signal.trim().to_owned()).collect()))
        }
        Ok(value) => Some(value),
        Err(_) => Some(Value::from(value)),
    };
    Ok((field.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Layers};

    #[test]
    fn a_field_is_read_as_the_file_would_have_it() {
        for (text, expected) in [
            ("plan=free", "plan = \"free\""),
            ("plan=\"free\"", "plan = \"free\""),
            ("records_per_second=1_000", "records_per_second = 1_000"),
            ("signals=logs, traces", "signals = [\"logs\", \"traces\"]"),
            ("signals=[\"logs\"]", "signals = [\"logs\"]"),
        ] {
            let (field, value) = field(text).unwrap();
            assert_eq!(format!("{field} = {}", value.unwrap().to_string().trim()), expected);
        }
        assert!(field("plan=").unwrap().1.is_none());
        assert!(field("plan").is_err());
    }

    #[test]
    fn tenants_are_listed_with_what_holds_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        file::add(&path, "acme", "", None, SystemTime::now()).unwrap();
        let fields = ["plan=startup", "retention_days=14", "signals=logs"].map(|text| field(text).unwrap());
        file::set_tenant(&path, "umbrella", &fields).unwrap();
        let config = Layers::new(None, std::iter::empty(), &Flags::default()).unwrap().config().unwrap();
        let listed = list(&config, &KeyFile::read(&path).unwrap());
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["acme", "-", "1", "100000", "none", "none", "30", "d", "1", "metrics,", "logs,", "traces"]
        );
        assert_eq!(lines[2], ["umbrella", "startup", "0", "1000", "10000000000", "none", "14", "d", "0.1", "logs"]);
    }
}
