//! Which tables move to slower storage as their rows grow old, and by what.
//!
//! Rows that are stored once, and what is summed up of them, move by the age of the rows; what every look-up asks (labels, deliveries,
//! where a trace lies, what tenants used) is small and stays where it is fast. Invariant: a move never takes the place of the TTL by which a
//! table's rows expire, which is as the migrations have it.

/// A table whose parts move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TieredTable {
    /// Its name.
    pub name: &'static str,
    /// The column that tells how old a row is. Of rows as they came, when they came: what their clock says may lie in the future.
    pub time: &'static str,
    /// The TTL by which its rows expire, as ClickHouse writes it.
    pub expires: &'static str,
}

const fn raw(name: &'static str) -> TieredTable {
    TieredTable { name, time: "IngestedAt", expires: "ExpiresAt" }
}

const fn sums(name: &'static str) -> TieredTable {
    TieredTable { name, time: "Time", expires: "ExpiresOn + toIntervalDay(1)" }
}

/// All of them.
pub const TIERED_TABLES: [TieredTable; 13] = [
    raw("metrics_raw"),
    raw("logs_raw"),
    raw("traces_raw"),
    sums("metrics_5m_data"),
    sums("metrics_5m_histograms"),
    sums("metrics_1h_data"),
    sums("metrics_1h_histograms"),
    sums("service_metrics_1m_by_time"),
    sums("error_aggregates_data"),
    sums("service_map_data"),
    sums("service_topology_spans"),
    sums("log_patterns_data"),
    sums("log_patterns_1h_data"),
];

impl TieredTable {
    /// The TTL with moves to volumes after so many days, as ClickHouse writes it; without moves the one that the migrations have.
    pub fn ttl<'a>(&self, moves: impl IntoIterator<Item = (&'a str, u32)>) -> String {
        let moves = moves
            .into_iter()
            .map(|(volume, days)| format!("{} + toIntervalDay({days}) TO VOLUME '{volume}', ", self.time));
        format!("{}{}", moves.collect::<String>(), self.expires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::{MIGRATIONS, Placement};

    #[test]
    fn a_table_expires_as_the_migrations_have_it_and_has_the_column_it_moves_by() {
        let statements =
            || MIGRATIONS.iter().flat_map(|migration| migration.statements(&Placement::SingleNode).unwrap());
        for table in TIERED_TABLES {
            let head = format!("CREATE TABLE IF NOT EXISTS {}\n", table.name);
            let made = statements().find(|statement| statement.starts_with(&head)).expect(table.name);
            let expires = table.expires.replace("toIntervalDay(1)", "INTERVAL 1 DAY");
            assert!(made.contains(&format!("\nTTL {expires}\nSETTINGS ttl_only_drop_parts = 1")), "{made}");
            assert!(made.lines().any(|line| line.trim_start().starts_with(&format!("{} ", table.time))), "{made}");
            let changes = format!("ALTER TABLE {} MODIFY TTL", table.name);
            assert!(!statements().any(|statement| statement.starts_with(&changes)), "{changes}");
        }
    }

    #[test]
    fn moves_stand_before_the_end_and_no_moves_leave_it_alone() {
        let table = raw("logs_raw");
        assert_eq!(table.ttl([]), "ExpiresAt");
        let moves = "IngestedAt + toIntervalDay(3) TO VOLUME 'warm', IngestedAt + toIntervalDay(14) TO VOLUME 'cold', ";
        assert_eq!(table.ttl([("warm", 3), ("cold", 14)]), format!("{moves}ExpiresAt"));
    }
}
