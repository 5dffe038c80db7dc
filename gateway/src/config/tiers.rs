//! The section `[tiers]`.

use super::Error;
use crate::tenants::RETENTION_DAYS_MAX;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tiers {
    pub(crate) policy: String,
    warm_after_days: u32,
    cold_after_days: u32,
}

impl Tiers {
    /// Whether rows move at all.
    pub(crate) fn is_on(&self) -> bool {
        !self.policy.is_empty()
    }

    /// To which volumes, after how many days.
    pub(crate) fn moves(&self) -> Vec<(&'static str, u32)> {
        let moves = [("warm", self.warm_after_days), ("cold", self.cold_after_days)];
        moves.into_iter().filter(|(_, days)| self.is_on() && *days > 0).collect()
    }

    /// What types cannot say.
    pub(super) fn check(&self) -> Result<(), Error> {
        let value = |key, found: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::Value { key, found: found.to_string(), allowed: allowed.to_owned() })
        };
        let Tiers { policy, warm_after_days, cold_after_days } = self;
        if policy.len() > 64 || !policy.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            let allowed = "up to 64 letters, digits and _ - . are allowed; `SELECT policy_name FROM system.storage_policies` lists them";
            return value("tiers.policy", policy, allowed);
        }
        for (key, days) in [("tiers.warm_after_days", warm_after_days), ("tiers.cold_after_days", cold_after_days)] {
            if u64::from(*days) > u64::from(RETENTION_DAYS_MAX) {
                return value(key, days, "0 to 36500 is allowed");
            }
        }
        if self.is_on() && self.moves().is_empty() {
            let allowed = "set tiers.warm_after_days or tiers.cold_after_days, or leave the policy empty";
            return value("tiers.policy", policy, allowed);
        }
        if *cold_after_days != 0 && cold_after_days <= warm_after_days {
            return value(
                "tiers.cold_after_days",
                cold_after_days,
                "0, or more than tiers.warm_after_days, is allowed",
            );
        }
        Ok(())
    }
}
