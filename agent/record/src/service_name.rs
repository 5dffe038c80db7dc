//! Which service a process is, by rule, from what /proc tells about it: pure text in, a name out.
//!
//! Callers read `/proc/<pid>/{environ,cgroup,cmdline}` and the executable's name; nothing here does I/O. The order is: what
//! the process says itself (`OTEL_SERVICE_NAME`, then `service.name` in `OTEL_RESOURCE_ATTRIBUTES`), its systemd unit, its
//! pod, its executable (for an interpreter, the program it runs). Invariant: the answer depends on the arguments alone, so
//! that the host input, the log input and the kernel input give one process one name.

use std::borrow::Cow;

/// What is known of a process. Any part may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process<'a> {
    /// `/proc/<pid>/environ`: NUL-separated `KEY=value`.
    pub environ: &'a [u8],
    /// `/proc/<pid>/cgroup`.
    pub cgroup: &'a str,
    /// `/proc/<pid>/cmdline`: NUL-separated arguments.
    pub cmdline: &'a [u8],
    /// File name of `/proc/<pid>/exe`, or the kernel's `comm`.
    pub executable: &'a str,
}

/// The service's name; empty only if nothing at all is known.
pub fn service_name(process: Process<'_>) -> String {
    if let Some(name) = declared(process.environ) {
        return name;
    }
    if let Some(unit) = systemd_unit(process.cgroup) {
        return service_of_unit(unit).to_owned();
    }
    if container_id(process.cgroup).is_some()
        && environ(process.environ, "KUBERNETES_SERVICE_HOST").is_some()
        && let Some(pod) = environ(process.environ, "HOSTNAME")
    {
        return workload_of_pod(&pod).to_owned();
    }
    program(process.cmdline, process.executable).into_owned()
}

/// What the process' own OpenTelemetry settings say.
fn declared(environ_bytes: &[u8]) -> Option<String> {
    let own = environ(environ_bytes, "OTEL_SERVICE_NAME").map(|name| name.trim().to_owned());
    own.filter(|name| !name.is_empty()).or_else(|| {
        let all = environ(environ_bytes, "OTEL_RESOURCE_ATTRIBUTES")?;
        resource_attributes(&all).into_iter().find(|(key, _)| key == "service.name").map(|(_, name)| name)
    })
}

/// The value of one variable of a NUL-separated environment.
pub fn environ<'a>(environ: &'a [u8], key: &str) -> Option<Cow<'a, str>> {
    let value = environ
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(key.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")))?;
    Some(String::from_utf8_lossy(value))
}

/// `OTEL_RESOURCE_ATTRIBUTES`: `key=value` pairs between commas, percent-encoded, as the OpenTelemetry specification has it.
/// Pairs without a key or a value are left out.
pub fn resource_attributes(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (percent_decoded(key.trim()), percent_decoded(value.trim())))
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = (byte == b'%').then(|| tail.get(..2)).flatten();
        let value = escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match value {
            Some(value) => {
                decoded.push(value);
                rest = &tail[2..];
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The systemd service a cgroup belongs to: the innermost `*.service`, but for a user's session manager.
pub fn systemd_unit(cgroup: &str) -> Option<&str> {
    let units = cgroup.lines().filter_map(|line| {
        // Containers run below a unit of their runtime or of none; the unit is not who they are.
        if container_of_path(line).is_some() {
            return None;
        }
        let path = line.splitn(3, ':').nth(2)?;
        path.split('/').rev().find(|part| part.ends_with(".service"))
    });
    units.into_iter().find(|unit| !unit.starts_with("user@"))
}

/// `nginx.service` is nginx, `postgresql@15-main.service` is postgresql.
fn service_of_unit(unit: &str) -> &str {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    name.split('@').next().unwrap_or(name)
}

/// The 64-digit id of the container that a cgroup belongs to, as Docker, containerd, CRI-O and Podman write it.
pub fn container_id(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(container_of_path)
}

/// As [`container_id`], of one path: the innermost part that is or ends in 64 hexadecimal digits.
pub fn container_of_path(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|part| {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let id = name.get(name.len().checked_sub(64)?..)?;
        let before = &name[..name.len() - 64];
        let is_id = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        // "docker-<id>.scope", "cri-containerd-<id>.scope", "crio-<id>", "cri-containerd:<id>", or the id alone.
        (is_id && (before.is_empty() || before.ends_with(['-', ':']))).then_some(id)
    })
}

/// The UID of the Kubernetes pod that a cgroup belongs to, with dashes.
pub fn pod_uid(cgroup: &str) -> Option<String> {
    cgroup.split(['/', '\n']).find_map(|part| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        // "pod<uid>" (cgroupfs driver) or "kubepods-burstable-pod<uid with underscores>" (systemd driver).
        let uid = name.get(name.len().checked_sub(36)?..)?;
        let named = name[..name.len() - 36].ends_with("pod");
        let is_uid = uid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-' || byte == b'_',
            _ => byte.is_ascii_hexdigit(),
        });
        (named && is_uid).then(|| uid.replace('_', "-"))
    })
}

/// `checkout-7d4b9c6f5-x2x9z` is checkout, `db-0` is db: the suffixes that Kubernetes generates go.
fn workload_of_pod(pod: &str) -> &str {
    // Kubernetes draws generated names from these letters: no vowels, no 0, 1, 3.
    let generated = |part: &str| !part.is_empty() && part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let Some((front, last)) = pod.rsplit_once('-') else { return pod };
    if last.len() == 5 && generated(last) {
        return match front.rsplit_once('-') {
            Some((workload, hash)) if (6..=10).contains(&hash.len()) && generated(hash) => workload,
            _ => front,
        };
    }
    if last.bytes().all(|byte| byte.is_ascii_digit()) && !last.is_empty() { front } else { pod }
}

/// The executable; for an interpreter the program it was given: `python3 /srv/shop.py` is shop.
fn program<'a>(cmdline: &'a [u8], executable: &'a str) -> Cow<'a, str> {
    const INTERPRETERS: [&str; 11] =
        ["python", "pypy", "node", "nodejs", "ruby", "perl", "php", "java", "dotnet", "bash", "sh"];
    let bare = executable.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&bare) {
        return Cow::Borrowed(executable);
    }
    let arguments = cmdline.split(|byte| *byte == 0).filter(|argument| !argument.is_empty()).skip(1);
    let arguments: Vec<Cow<'a, str>> = arguments.map(String::from_utf8_lossy).collect();
    let follows = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    // The first argument that is no flag, if it looks like a file: "-c 'code'" does not name a service.
    let script = || {
        let first = arguments.iter().find(|argument| !argument.starts_with('-'))?;
        let is_file = !first.contains(char::is_whitespace) && (first.contains('/') || first.contains('.'));
        let inline = arguments.iter().any(|argument| matches!(argument.as_ref(), "-c" | "-e" | "-r"));
        (is_file && !inline).then(|| first.clone())
    };
    let named = match bare {
        "java" => follows("-jar").or_else(|| main_class(&arguments)),
        "python" | "pypy" => follows("-m").or_else(script),
        _ => script(),
    };
    let named = named.map(|named| stem(&named)).filter(|name| !name.is_empty());
    named.map_or(Cow::Borrowed(executable), Cow::Owned)
}

/// The class that Java runs, with its module before it if it has one: the first argument that is neither an option nor its value.
fn main_class<'a>(arguments: &[Cow<'a, str>]) -> Option<Cow<'a, str>> {
    const WITH_VALUE: [&str; 14] = [
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
        "--limit-modules",
        "--add-exports",
        "--add-opens",
        "--add-reads",
        "--patch-module",
        "--enable-native-access",
        "--source",
    ];
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if WITH_VALUE.contains(&argument.as_ref()) {
            rest.next();
        } else if !argument.starts_with(['-', '@']) {
            return Some(argument.clone());
        }
    }
    None
}

/// `/srv/shop.py` is shop. A Java main class `org.acme.Shop` stays: only known endings go.
fn stem(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let endings = [".py", ".pyc", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".php", ".jar", ".dll", ".sh"];
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn name(environ: &str, cgroup: &str, cmdline: &str, executable: &str) -> String {
        let (environ, cmdline) = (environ.replace(' ', "\0"), cmdline.replace(' ', "\0"));
        service_name(Process { environ: environ.as_bytes(), cgroup, cmdline: cmdline.as_bytes(), executable })
    }

    #[test]
    fn what_the_process_says_comes_first_then_unit_then_pod_then_executable() {
        let unit = "0::/system.slice/nginx.service\n";
        let pod = format!("0::/kubepods.slice/cri-containerd-{ID}.scope\n");
        let kube = "KUBERNETES_SERVICE_HOST=10.0.0.1 HOSTNAME=checkout-7d4b9c6f5-x2x9z";
        let table = [
            ("OTEL_SERVICE_NAME=shop OTEL_RESOURCE_ATTRIBUTES=service.name=other", unit, "shop"),
            ("A=1 OTEL_RESOURCE_ATTRIBUTES=a=b,service.name=my%20shop,c", unit, "my shop"),
            ("OTEL_SERVICE_NAME= XOTEL_SERVICE_NAME=x", unit, "nginx"),
            ("", unit, "nginx"),
            ("", "1:name=systemd:/system.slice/postgresql@15-main.service\n0::/\n", "postgresql"),
            ("", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/foot.service\n", "foot"),
            ("", "0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", "worker"),
            (kube, &pod, "checkout"),
            ("", &pod, "worker"),
            ("", "0::/\n", "worker"),
            ("", "", "worker"),
        ];
        for (environ, cgroup, expected) in table {
            assert_eq!(name(environ, cgroup, "", "worker"), expected, "{environ} {cgroup}");
        }
    }

    #[test]
    fn an_interpreter_is_named_by_the_program_it_runs() {
        let table = [
            ("python3.11", "python3 /srv/shop.py --port 80", "shop"),
            ("python3", "python3 -u -m gunicorn app:main", "gunicorn"),
            ("python3", "python3 -c import", "python3"),
            ("java", "java -Xmx1g -jar /opt/orders.jar", "orders"),
            ("java", "java -cp lib org.acme.Shop", "org.acme.Shop"),
            (
                "java",
                "java -Xmx1g -cp /app/classes:/app/libs/* --add-opens java.base/java.lang=ALL-UNNAMED Shop 1",
                "Shop",
            ),
            ("java", "java @/app/arguments -p /app -m shop/org.acme.Shop", "org.acme.Shop"),
            ("java", "java -cp /app/libs/*", "java"),
            ("node", "node", "node"),
            ("node", "node dist/server.js", "server"),
            ("nginx", "nginx: worker", "nginx"),
        ];
        for (executable, cmdline, expected) in table {
            assert_eq!(name("", "", cmdline, executable), expected, "{cmdline}");
        }
    }

    #[test]
    fn containers_are_found_in_every_runtime_s_cgroup_path() {
        for path in [
            format!("12:cpu:/docker/{ID}\n"),
            format!("0::/system.slice/docker-{ID}.scope\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
            format!("0::/machine.slice/libpod-{ID}.scope/container\n"),
            format!("0::/kubepods/besteffort/podx/{ID}\n"),
            format!("0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}\n"),
        ] {
            assert_eq!(container_id(&path), Some(ID), "{path}");
            assert_eq!(systemd_unit(&path), None, "{path}");
        }
        assert_eq!(container_id("0::/system.slice/nginx.service"), None);
        assert_eq!(container_id(&format!("0::/x{ID}")), None);
        assert_eq!(container_id("0::/ä€"), None);
    }

    #[test]
    fn pod_uids_are_found_whichever_driver_wrote_them() {
        let uid = "2c48913c-b29f-11e7-9350-020968147796";
        let systemd = format!("/kubepods-burstable-pod{}.slice/x", uid.replace('-', "_"));
        assert_eq!(pod_uid(&systemd).as_deref(), Some(uid));
        assert_eq!(pod_uid(&format!("0::/kubepods/pod{uid}/{ID}")).as_deref(), Some(uid));
        assert_eq!(pod_uid(&format!("0::/pod{ID}")), None);
    }

    #[test]
    fn only_generated_suffixes_leave_a_pod_s_name() {
        let table = [
            ("checkout-7d4b9c6f5-x2x9z", "checkout"),
            ("node-exporter-x2x9z", "node-exporter"),
            ("db-0", "db"),
            ("web", "web"),
            ("payment-service", "payment-service"),
        ];
        for (pod, expected) in table {
            assert_eq!(workload_of_pod(pod), expected);
        }
    }
}
