//! `ollystack-agent doctor --processes`: each process that serves or calls, whether its requests are seen, and why not.
//!
//! In: the sockets of this host, the files that processes run, and what the running agent says that it saw. Out: one row a process, or several that
//! share a listening socket. It works without a running agent, which then is the reason why nothing is seen. Invariant: a process is
//! said to be seen only if spans of it were made.

use super::encryption::{Encryption, Library, Linked};
use crate::config::Config;
use crate::status;
use crate::table::{Align, Table, grouped};
use ollystack_input_ebpf as ebpf;
use ollystack_input_sockets::{Error, Surveyed, survey};
use ollystack_record::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Places listened on, and whom one calls, that are shown of each.
const SHOWN: usize = 2;
/// A process that an agent of this age has not seen may not have asked yet.
const YOUNG_SECONDS: u64 = 30;

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Coverage {
    agent_runs: bool,
    processes: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    process: Surveyed,
    /// In which protocols it was seen to serve or call.
    protocols: BTreeSet<String>,
    tls: Vec<Library>,
    instrumented: Instrumented,
    why: String,
}

/// Whether requests are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Instrumented {
    Yes,
    /// In clear alone.
    Partly,
    No,
}

/// What can be seen at all.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Seconds for which the agent has run; `None`: it does not.
    agent: Option<u64>,
    /// Why no requests are seen; `None`: they are.
    requests_off: Option<String>,
    tls_off: Option<String>,
    seen: Vec<Seen>,
    files: Vec<Encrypting>,
}

/// A file with TLS in it that the agent has looked into: `ebpf.tls` of its status.
#[derive(Clone, Debug, Deserialize)]
struct Encrypting {
    file: PathBuf,
    library: String,
    /// Why it is not seen into.
    why_not: Option<String>,
}

/// What the agent saw of a process: `ebpf.processes` of its status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    pid: u32,
    serves: Vec<String>,
    calls: Vec<String>,
    encrypted: bool,
    spans: u64,
    /// Connections on which nothing was of a known protocol.
    unrecognised: u64,
    /// The same of connections that had begun before the agent looked at them.
    midway: u64,
}

/// Look at everything. Blocks while kernel programs are tried, if no agent runs.
pub(crate) fn coverage(config: &Config) -> Result<Coverage, Error> {
    let watch = watch(config);
    let mut encryption = Encryption::default();
    let rows = survey(&config.sockets)?.into_iter().map(|process| {
        let (mut tls, mut left) = (Vec::new(), None);
        for folder in process.pids.iter().map(|pid| Path::new("/proc").join(pid.to_string())) {
            // Gone, or not permitted: then it is not known.
            left = left.or_else(|| watch.left(&std::fs::read_to_string(folder.join("maps")).unwrap_or_default()));
            for library in encryption.of(&folder) {
                if !tls.contains(&library) {
                    tls.push(library);
                }
            }
        }
        row(process, tls, left, &watch)
    });
    Ok(Coverage { agent_runs: watch.agent.is_some(), processes: rows.collect() })
}

/// What the running agent says; without one, what it could do here.
fn watch(config: &Config) -> Watch {
    let Ok((_, report)) = status::fetch(&config.admin.listen) else {
        let rows = ebpf::availability(&config.ebpf);
        let off = |name: &str| {
            let row = rows.iter().find(|row| row.name == name || row.name == "ebpf")?;
            (row.state == State::Off).then(|| row.why.clone())
        };
        return Watch { requests_off: off("ebpf.requests"), tls_off: off("ebpf.tls"), ..Watch::default() };
    };
    let stage = report.stages.get("ebpf").cloned().unwrap_or_default();
    let off = |name: &str| {
        let features = stage["features"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_on = features.iter().any(|feature| feature["name"] == name && feature["rung"] != "off");
        (!is_on).then(|| "`ollystack-agent doctor` says why".to_owned())
    };
    Watch {
        agent: Some(report.uptime_seconds),
        requests_off: off("ebpf.requests"),
        tls_off: off("ebpf.tls"),
        seen: serde_json::from_value(stage["processes"].clone()).unwrap_or_default(),
        files: serde_json::from_value(stage["tls"].clone()).unwrap_or_default(),
    }
}

impl Watch {
    /// Why the agent does not see into a file that a process with these `maps` runs.
    fn left(&self, maps: &str) -> Option<String> {
        self.files.iter().find_map(|told| {
            let (why, file) = (told.why_not.as_ref()?, told.file.to_str()?);
            let runs = maps.lines().any(|line| line.strip_suffix(file).is_some_and(|before| before.ends_with(' ')));
            runs.then(|| format!("TLS by {} is not seen into: {why}", told.library))
        })
    }
}

fn row(process: Surveyed, tls: Vec<Library>, left: Option<String>, watch: &Watch) -> Row {
    let mut seen = Seen::default();
    for of in watch.seen.iter().filter(|seen| process.pids.contains(&seen.pid)) {
        seen.serves.extend_from_slice(&of.serves);
        seen.calls.extend_from_slice(&of.calls);
        seen.encrypted |= of.encrypted;
        seen.spans += of.spans;
        seen.unrecognised += of.unrecognised;
        seen.midway += of.midway;
    }
    let (instrumented, why) = verdict(process.connections, &tls, left, &seen, watch);
    Row { process, protocols: seen.serves.into_iter().chain(seen.calls).collect(), tls, instrumented, why }
}

/// Whether a process is seen, and what keeps it from it.
fn verdict(
    connections: u64,
    tls: &[Library],
    left: Option<String>,
    seen: &Seen,
    watch: &Watch,
) -> (Instrumented, String) {
    let beyond = tls.iter().find_map(|library| unseen(library, watch)).or(left);
    if seen.spans > 0 {
        let spans = format!("{} requests seen", grouped(i64::try_from(seen.spans).unwrap_or(i64::MAX)));
        return match beyond.filter(|_| !seen.encrypted) {
            Some(why) => (Instrumented::Partly, format!("{spans} in clear; {why}")),
            None if seen.encrypted => (Instrumented::Yes, format!("{spans}, also through TLS")),
            None => (Instrumented::Yes, spans),
        };
    }
    let why = if let Some(why) = &watch.requests_off {
        format!("ebpf off: {why}")
    } else if let Some(why) = beyond {
        why
    } else {
        match watch.agent {
            None => "no agent runs: start one with `ollystack-agent run`".to_owned(),
            Some(seconds) if seconds < YOUNG_SECONDS => format!("no request seen yet: the agent runs for {seconds} s"),
            Some(_) => match (unknown(seen), connections) {
                (Some(why), _) => format!("no request seen: {why}"),
                (None, 0) => "no request seen: nobody is connected now".to_owned(),
                (None, _) => "no request seen: none was made, or too few to tell in which protocol".to_owned(),
            },
        }
    };
    (Instrumented::No, why)
}

/// What was said, and is of no protocol that is known; `None`: nothing of it was.
fn unknown(seen: &Seen) -> Option<String> {
    let connections = |count: u64| match count {
        1 => "1 connection".to_owned(),
        count => format!("{} connections", grouped(i64::try_from(count).unwrap_or(i64::MAX))),
    };
    let not_recognised = format!("{} in a protocol that is not recognised", connections(seen.unrecognised));
    let midway = format!("{} joined midway, seen once opened anew", connections(seen.midway));
    match (seen.unrecognised, seen.midway) {
        (0, 0) => None,
        (_, 0) => Some(not_recognised),
        (0, _) => Some(midway),
        _ => Some(format!("{not_recognised}; {midway}")),
    }
}

/// Why what goes through a library cannot be seen; `None`: it can.
fn unseen(library: &Library, watch: &Watch) -> Option<String> {
    let Library { name, linked } = library;
    match (*name, linked) {
        (_, Linked::Stripped) => Some(format!("stripped {name}: its functions have no names to find them by")),
        ("Java" | "NSS" | "rustls", _) => Some(format!("TLS by {name} is not seen into")),
        _ => watch.tls_off.as_ref().map(|why| format!("TLS by {name}, and ebpf.tls is off: {why}")),
    }
}

impl Coverage {
    /// For machines.
    pub(crate) fn as_json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }

    /// For people.
    pub(crate) fn render(&self, width: usize) -> String {
        let heads = ["service", "container", "listens", "calls", "protocols", "tls", "seen", "why"];
        let heads = heads.map(|head| (head, Align::Left));
        let mut table = Table::new([("pid", Align::Right)].into_iter().chain(heads));
        for Row { process, protocols, tls, instrumented, why } in &self.processes {
            let Surveyed { pids, service, container, listens, calls, .. } = process;
            let more = pids.len().saturating_sub(1);
            let pid = pids.first().map(u32::to_string).unwrap_or_default();
            table.row([
                if more > 0 { format!("{pid}+{more}") } else { pid },
                service.clone(),
                container.as_deref().map_or("-", |id| &id[..id.len().min(12)]).to_owned(),
                some(&ports(listens)),
                some(calls),
                some(protocols),
                some(&tls.iter().map(|library| library.name.to_owned()).collect()),
                format!("{instrumented:?}").to_lowercase(),
                why.clone(),
            ]);
        }
        table.render(width)
    }
}

/// `tcp 0.0.0.0:80` is 80, `udp 127.0.0.1:53` is 53/udp; those on loopback alone look no different.
fn ports(listens: &BTreeSet<String>) -> BTreeSet<String> {
    let port = |text: &String| {
        let port = text.rsplit(':').next().unwrap_or_default();
        if text.starts_with("udp") { format!("{port}/udp") } else { port.to_owned() }
    };
    listens.iter().map(port).collect()
}

/// The first of them, and how many there are besides.
fn some(all: &BTreeSet<String>) -> String {
    if all.is_empty() {
        return "-".to_owned();
    }
    let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
    let more = all.len() - shown.len();
    if more > 0 { format!("{} +{more}", shown.join(" ")) } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(listens: &[&str], calls: &[&str], connections: u64) -> Surveyed {
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Surveyed {
            pids: vec![7, 8],
            service: "shop".into(),
            container: Some("0123456789abcdef".repeat(4)),
            listens: set(listens),
            calls: set(calls),
            connections,
        }
    }

    fn running(spans: u64, encrypted: bool) -> Watch {
        let (serves, calls) = (vec!["http1".into()], vec!["redis".into()]);
        let seen = Seen { pid: 8, serves, calls, encrypted, spans, ..Seen::default() };
        Watch { agent: Some(100), seen: vec![seen], ..Watch::default() }
    }

    fn giving_up(unrecognised: u64, midway: u64) -> Watch {
        let seen = [7, 8].map(|pid| Seen { pid, unrecognised, midway, ..Seen::default() });
        Watch { agent: Some(100), seen: seen.into(), ..Watch::default() }
    }

    #[test]
    fn what_keeps_a_process_from_being_seen_is_named() {
        let library = |name, linked| Library { name, linked };
        let shared = |name| vec![library(name, Linked::Shared)];
        let off = |why: &str| Some(why.to_owned());
        let table = [
            (running(2_000, false), vec![], 1, Instrumented::Yes, "2,000 requests seen"),
            (running(2, true), shared("OpenSSL"), 1, Instrumented::Yes, "2 requests seen, also through TLS"),
            (running(2, false), shared("OpenSSL"), 1, Instrumented::Yes, "2 requests seen"),
            (
                running(2, false),
                shared("Java"),
                1,
                Instrumented::Partly,
                "2 requests seen in clear; TLS by Java is not seen into",
            ),
            (running(0, false), shared("NSS"), 1, Instrumented::No, "TLS by NSS is not seen into"),
            (
                running(0, false),
                vec![library("rustls", Linked::Named)],
                1,
                Instrumented::No,
                "TLS by rustls is not seen into",
            ),
            (
                running(0, false),
                vec![library("rustls", Linked::Stripped)],
                1,
                Instrumented::No,
                "stripped rustls: its functions have no names to find them by",
            ),
            (
                Watch { requests_off: off("no BTF"), ..running(0, false) },
                vec![],
                1,
                Instrumented::No,
                "ebpf off: no BTF",
            ),
            (
                Watch { tls_off: off("refused"), ..running(0, false) },
                shared("GnuTLS"),
                1,
                Instrumented::No,
                "TLS by GnuTLS, and ebpf.tls is off: refused",
            ),
            (Watch::default(), vec![], 1, Instrumented::No, "no agent runs: start one with `ollystack-agent run`"),
            (
                Watch { agent: Some(3), ..Watch::default() },
                vec![],
                1,
                Instrumented::No,
                "no request seen yet: the agent runs for 3 s",
            ),
            (running(0, false), vec![], 0, Instrumented::No, "no request seen: nobody is connected now"),
            (
                running(0, false),
                vec![],
                1,
                Instrumented::No,
                "no request seen: none was made, or too few to tell in which protocol",
            ),
            (
                giving_up(1_000, 0),
                vec![],
                0,
                Instrumented::No,
                "no request seen: 2,000 connections in a protocol that is not recognised",
            ),
            (
                giving_up(0, 2),
                vec![],
                1,
                Instrumented::No,
                "no request seen: 4 connections joined midway, seen once opened anew",
            ),
            (
                giving_up(1, 1),
                vec![],
                1,
                Instrumented::No,
                "no request seen: 2 connections in a protocol that is not recognised; 2 connections joined midway, seen \
                 once opened anew",
            ),
        ];
        for (watch, tls, connections, instrumented, why) in table {
            let row = row(process(&[], &[], connections), tls, None, &watch);
            assert_eq!((row.instrumented, row.why.as_str()), (instrumented, why), "{watch:?}");
        }
    }

    #[test]
    fn what_the_agent_says_of_a_file_is_said_of_whoever_runs_it() {
        let told = r#"[{"file":"/opt/shop","library":"Go crypto/tls","why_not":"it is called too often"},
            {"file":"/lib/libssl.so.3","library":"OpenSSL or BoringSSL","why_not":null}]"#;
        let watch = Watch { files: serde_json::from_str(told).unwrap(), ..running(0, false) };
        let left = |file: &str| watch.left(&format!("0-1 r-xp 0 fd:01 9   /lib/ld.so\n1-2 r-xp 0 fd:01 8   {file}\n"));
        let why = "TLS by Go crypto/tls is not seen into: it is called too often";
        assert_eq!(left("/opt/shop").as_deref(), Some(why));
        assert_eq!([left("/mnt/opt/shop"), left("/lib/libssl.so.3")], [None, None]);
        let row = row(process(&[], &[], 1), vec![], left("/opt/shop"), &watch);
        assert_eq!((row.instrumented, row.why.as_str()), (Instrumented::No, why));
    }

    #[test]
    fn the_page_has_a_line_a_process_and_the_json_all_of_it() {
        let listens = ["tcp 0.0.0.0:80", "tcp [::]:80", "udp 127.0.0.1:53", "tcp 0.0.0.0:9000"];
        let tls = vec![Library { name: "OpenSSL", linked: Linked::Shared }];
        let rows = vec![row(process(&listens, &["stock"], 1), tls, None, &running(5, true))];
        let coverage = Coverage { agent_runs: true, processes: rows };
        let expected = "\
pid  service  container     listens       calls  protocols    tls      seen  why
7+1  shop     0123456789ab  53/udp 80 +1  stock  http1 redis  OpenSSL  yes   5 requests seen, also
                                                                             through TLS
";
        assert_eq!(coverage.render(105), expected);
        let json: serde_json::Value = serde_json::from_str(&coverage.as_json()).unwrap();
        let first = &json["processes"][0];
        assert_eq!(
            (&json["agent_runs"], &first["instrumented"], &first["pids"][1]),
            (&true.into(), &"yes".into(), &8.into())
        );
        assert_eq!((&first["tls"][0]["linked"], &first["listens"][0]), (&"shared".into(), &"tcp 0.0.0.0:80".into()));
    }
}
