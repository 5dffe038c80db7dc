//! Which service a log file is of that is of no container, from its path alone.
//!
//! - `/var/log/<folder>/...`: the folder (`/var/log/nginx/access.log` is nginx);
//! - anything else: the file's name without its endings (`/var/log/dpkg.log` is dpkg), unless that says nothing about the
//!   service (`app`, `error`, ...): then the nearest folder that is not called `log` or `logs` (`/srv/shop/logs/app.log` is
//!   shop).
//!
//! Invariant: never empty.

use std::path::{Component, Path};

/// Names of files that every service has.
const SAY_NOTHING: [&str; 16] = [
    "access",
    "app",
    "application",
    "console",
    "current",
    "debug",
    "err",
    "error",
    "log",
    "main",
    "out",
    "output",
    "server",
    "stderr",
    "stdout",
    "trace",
];

/// By the rule above.
pub(crate) fn service_of(path: &Path) -> String {
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        })
        .collect();
    let Some((file, folders)) = parts.split_last() else { return "log".to_owned() };
    let below = match folders {
        [var, log, below @ ..] if var == "var" && log == "log" => Some(below),
        _ => None,
    };
    let found = match below {
        Some([folder, ..]) => Some(folder.to_string()),
        _ => None,
    };
    let found = found.or_else(|| Some(stem(file)).filter(|stem| !SAY_NOTHING.contains(&stem.as_str())));
    let folder = || folders.iter().rev().find(|name| !matches!(name.as_ref(), "log" | "logs" | "var"));
    let found = found.or_else(|| folder().map(ToString::to_string));
    found.filter(|name| !name.is_empty()).unwrap_or_else(|| file.to_string())
}

/// Without ".log", ".txt", numbers and dates at the end.
fn stem(file: &str) -> String {
    let mut name = file;
    loop {
        let Some((front, ending)) = name.rsplit_once(['.', '-', '_']) else { return name.to_owned() };
        let is_ending = matches!(ending, "log" | "txt" | "out" | "err" | "json")
            || (!ending.is_empty() && ending.bytes().all(|byte| byte.is_ascii_digit()));
        if front.is_empty() || !is_ending {
            return name.to_owned();
        }
        name = front;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_the_service() {
        let table = [
            ("/var/log/nginx/access.log", "nginx"),
            ("/var/log/postgresql/postgresql-15-main.log", "postgresql"),
            ("/var/log/dpkg.log", "dpkg"),
            ("/var/log/syslog", "syslog"),
            ("/var/log/syslog.1", "syslog"),
            ("/var/log/error.log", "error.log"),
            ("/srv/shop/logs/app.log", "shop"),
            ("/srv/shop/orders-2026-11-20.log", "orders"),
            ("/srv/.hidden", ".hidden"),
            ("/", "log"),
        ];
        for (path, expected) in table {
            assert_eq!(service_of(Path::new(path)), expected, "{path}");
        }
    }
}
