//! Ten questions that people ask such a store, and how long it takes to answer.
//!
//! Each is asked as a dashboard would: one tenant, a span of time before `{now}`, which is when the last rows are, a limit; in the database
//! that is filled. Invariant: a question that
//! finds nothing is an error, as its time would say nothing.

use anyhow::{Context, Result, ensure};
use ollystack_tests::Store;
use std::time::Instant;

/// How often each is asked.
const TIMES: usize = 20;

/// One question.
pub(crate) struct Question {
    /// In words.
    pub(crate) name: &'static str,
    /// The figure's name.
    pub(crate) figure: &'static str,
    sql: &'static str,
}

/// Answered.
pub(crate) struct Answered {
    /// Milliseconds of each time, in order of size.
    pub(crate) ms: Vec<f64>,
    /// Rows that the engine read for it.
    pub(crate) rows_read: u64,
}

pub(crate) const QUESTIONS: &[Question] = &[
    Question {
        name: "p99 and errors by service, last hour",
        figure: "red",
        sql: "SELECT ServiceName, sum(Requests), sum(Errors), max(DurationP99) FROM service_metrics_1m \
              WHERE TenantId = 'bench' AND Time >= {now} - INTERVAL 1 HOUR AND SpanKind = 'Server' GROUP BY ServiceName ORDER BY 2 DESC",
    },
    Question {
        name: "error logs with a word, last 24 hours",
        figure: "error_logs",
        sql: "SELECT Timestamp, ServiceName, Body FROM logs_raw WHERE TenantId = 'bench' AND Timestamp >= {now} - INTERVAL 24 HOUR \
              AND SeverityNumber >= 17 AND hasToken(Body, 'failed') ORDER BY Timestamp DESC LIMIT 100",
    },
    Question {
        name: "log lines with a rare word, last 24 hours",
        figure: "rare_word",
        sql: "SELECT Timestamp, ServiceName, Body FROM logs_raw WHERE TenantId = 'bench' AND Timestamp >= {now} - INTERVAL 24 HOUR \
              AND hasToken(Body, 'BREAK') ORDER BY Timestamp DESC LIMIT 100",
    },
    Question {
        name: "log lines by minute and severity, last hour",
        figure: "log_volume",
        sql: "SELECT toStartOfMinute(Timestamp) AS t, SeverityText, sum(LineCount) FROM logs_raw WHERE TenantId = 'bench' \
              AND Timestamp >= {now} - INTERVAL 1 HOUR GROUP BY t, SeverityText ORDER BY t",
    },
    Question {
        name: "one trace by its id",
        figure: "trace",
        sql: "WITH {trace} AS id, (SELECT min(Start) FROM traces_trace_id_ts WHERE TenantId = 'bench' AND TraceId = id) AS from, \
              (SELECT max(End) + INTERVAL 1 SECOND FROM traces_trace_id_ts WHERE TenantId = 'bench' AND TraceId = id) AS to \
              SELECT Timestamp, SpanId, ParentSpanId, SpanName, Duration, SpanAttributes FROM traces_raw \
              WHERE TenantId = 'bench' AND TraceId = id AND Timestamp >= from AND Timestamp <= to ORDER BY Timestamp",
    },
    Question {
        name: "slowest requests of a service, last hour",
        figure: "slowest",
        sql: "SELECT TraceId, SpanName, Duration FROM traces_raw WHERE TenantId = 'bench' AND ServiceName = {service} \
              AND Timestamp >= {now} - INTERVAL 1 HOUR ORDER BY Duration DESC LIMIT 50",
    },
    Question {
        name: "service map, last hour",
        figure: "service_map",
        sql: "SELECT Source, Target, Protocol, sum(Calls), sum(Errors) FROM service_topology WHERE TenantId = 'bench' \
              AND Time >= {now} - INTERVAL 1 HOUR GROUP BY Source, Target, Protocol ORDER BY 4 DESC",
    },
    Question {
        name: "top patterns of log lines, last 24 hours",
        figure: "patterns",
        sql: "SELECT PatternId, argMax(Template, Lines), sum(Lines) AS n FROM log_patterns_1h WHERE TenantId = 'bench' \
              AND Time >= {now} - INTERVAL 24 HOUR GROUP BY PatternId ORDER BY n DESC LIMIT 20",
    },
    Question {
        name: "errors by message, last 24 hours",
        figure: "errors",
        sql: "SELECT ServiceName, Message, sum(Errors) AS n, any(Example) FROM error_aggregates WHERE TenantId = 'bench' \
              AND Time >= {now} - INTERVAL 24 HOUR GROUP BY ServiceName, Message ORDER BY n DESC LIMIT 20",
    },
    Question {
        name: "CPU by host and day, a month",
        figure: "cpu_month",
        sql: "SELECT toDate(m.Time) AS day, s.HostName, sum(m.Sum) / sum(m.Count) FROM metrics_1h AS m INNER JOIN metrics_series AS s \
              ON m.TenantId = s.TenantId AND m.MetricName = s.MetricName AND m.SeriesHash = s.SeriesHash \
              WHERE m.TenantId = 'bench' AND m.MetricName = 'system.cpu.utilization' AND m.Time >= {now} - INTERVAL 30 DAY \
              AND s.MetricName = 'system.cpu.utilization' AND s.Attributes['cpu.mode'] = 'user' GROUP BY day, s.HostName ORDER BY day",
    },
];

/// Ask one, often, as of `now` in Unix nanoseconds.
pub(crate) fn ask(store: &Store, database: &str, question: &Question, now: i64) -> Result<Answered> {
    let now = format!("toDateTime({})", now / 1_000_000_000);
    let one = |sql: &str| -> Result<String> {
        let text = store.sql(sql)?;
        Ok(format!("'{}'", text.replace('\'', "\\'")))
    };
    let mut answered = Answered { ms: Vec::new(), rows_read: 0 };
    for at in 0..TIMES {
        // Another one each time.
        let trace = || {
            one(&format!(
                "SELECT TraceId FROM {database}.traces_trace_id_ts ORDER BY cityHash64(TraceId, {at}) LIMIT 1 SETTINGS max_execution_time = 0"
            ))
        };
        let service = || {
            one(&format!(
                "SELECT ServiceName FROM {database}.traces_raw WHERE Timestamp >= {now} - INTERVAL 1 HOUR GROUP BY ServiceName ORDER BY cityHash64(ServiceName, {at}) LIMIT 1 SETTINGS max_execution_time = 0"
            ))
        };
        let mut sql = question.sql.replace("{now}", &now);
        for (name, value) in [("{trace}", &trace as &dyn Fn() -> Result<String>), ("{service}", &service)] {
            if sql.contains(name) {
                sql = sql.replace(name, &value()?);
            }
        }
        let url = format!("{}/?database={database}&max_threads=2&use_query_condition_cache=0", store.url());
        let start = Instant::now();
        let answer = ollystack_tests::post(&url, &[], sql.as_bytes())?;
        answered.ms.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(answer.status == 200, "{}: {}", question.name, answer.text());
        ensure!(!answer.body.is_empty(), "{}: nothing is found by `{sql}`", question.name);
        answered.rows_read = answered.rows_read.max(rows_read(answer.header("x-clickhouse-summary"))?);
    }
    answered.ms.sort_by(f64::total_cmp);
    Ok(answered)
}

fn rows_read(summary: Option<&str>) -> Result<u64> {
    let summary: serde_json::Value = serde_json::from_str(summary.context("the answer bears no summary")?)?;
    let rows = summary["read_rows"].as_str().and_then(|rows| rows.parse().ok());
    rows.with_context(|| format!("the summary has no read_rows: {summary}"))
}
