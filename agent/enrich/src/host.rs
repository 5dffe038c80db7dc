//! What is known of this host: its own files, the kernel, and what whoever started the agent has put into its environment.
//!
//! Read once, at start. Where sources disagree, the configuration wins over `OTEL_RESOURCE_ATTRIBUTES`, and that over what was
//! found. Invariant: what cannot be read is left out; no attribute is empty.

use crate::Config;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::{Resource, service_name, value};
use ollystack_schema::names::semconv;
use std::path::Path;

/// Enough for any os-release or machine-id.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What Kubernetes' downward API and deployments of ours set in the agent's environment. Pod and namespace are the agent's
/// own and say nothing about the host.
const FROM_ENVIRONMENT: [(&str, &str); 7] = [
    ("K8S_NODE_NAME", semconv::K8S_NODE_NAME),
    ("K8S_CLUSTER_NAME", semconv::K8S_CLUSTER_NAME),
    ("CLOUD_PROVIDER", semconv::CLOUD_PROVIDER),
    ("CLOUD_REGION", semconv::CLOUD_REGION),
    ("CLOUD_AVAILABILITY_ZONE", semconv::CLOUD_AVAILABILITY_ZONE),
    ("CLOUD_ACCOUNT_ID", semconv::CLOUD_ACCOUNT_ID),
    ("OTEL_SERVICE_NAME", semconv::SERVICE_NAME),
];

/// The host as a resource.
pub(crate) fn detect(config: &Config, environment: impl Fn(&str) -> Option<String>) -> Resource {
    let root = &config.root_path;
    let kernel = rustix::system::uname();
    let kernel_text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let release = read(root, "etc/os-release").or_else(|| read(root, "usr/lib/os-release")).unwrap_or_default();

    // In a container the kernel gives the container's name.
    let own_name = || Some(kernel_text(kernel.nodename()));
    let name = if root == Path::new("/") {
        own_name()
    } else {
        read(root, "etc/hostname").or_else(|| environment("K8S_NODE_NAME")).or_else(own_name)
    };
    let found = [
        (semconv::HOST_NAME, name),
        (semconv::HOST_ID, machine_id(root)),
        (semconv::HOST_ARCH, Some(architecture(&kernel_text(kernel.machine())))),
        (semconv::OS_TYPE, Some("linux".to_owned())),
        (semconv::OS_NAME, release_field(&release, "NAME")),
        (semconv::OS_VERSION, release_field(&release, "VERSION_ID")),
        (semconv::OS_DESCRIPTION, Some(description(&release, &kernel_text(kernel.release())))),
    ];
    let set = FROM_ENVIRONMENT.map(|(variable, key)| (key, environment(variable)));
    let attribute = |(key, text): (&str, Option<String>)| {
        let text = text?.trim().to_owned();
        (!text.is_empty()).then(|| value::string(key, text))
    };
    let mut attributes: Vec<KeyValue> = found.into_iter().chain(set).filter_map(attribute).collect();
    let extra = environment("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    attributes
        .extend(service_name::resource_attributes(&extra).into_iter().map(|(key, text)| value::string(key, text)));
    attributes.extend(config.attributes.iter().map(|(key, text)| value::string(key, text)));
    Resource::new(attributes) // of equal keys the last one stands
}

fn read(root: &Path, path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(root.join(path)).ok()?;
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    (!text.trim().is_empty()).then_some(text)
}

/// As the semantic conventions say: machine-id, then D-Bus' copy. An image that was not yet booted says "uninitialized".
fn machine_id(root: &Path) -> Option<String> {
    ["etc/machine-id", "var/lib/dbus/machine-id"].into_iter().find_map(|path| {
        let text = read(root, path)?;
        let id = text.trim();
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_ascii_lowercase())
    })
}

/// The kernel's name in the conventions' words.
fn architecture(machine: &str) -> String {
    let known = match machine {
        "x86_64" => "amd64",
        "aarch64" | "arm64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        "ppc64" | "ppc64le" => "ppc64",
        "ppc" => "ppc32",
        machine if machine.starts_with("arm") => "arm32",
        machine => machine,
    };
    known.to_owned()
}

fn description(release: &str, kernel: &str) -> String {
    let system = release_field(release, "PRETTY_NAME").or_else(|| release_field(release, "NAME"));
    format!("{} (kernel {kernel})", system.as_deref().unwrap_or("Linux"))
}

/// A field of os-release(5), without its quotes.
fn release_field(release: &str, key: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    let value = value.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)], environment: &[(&str, &str)], attributes: &[(&str, &str)]) -> Resource {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let attributes = attributes.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let config = Config { root_path: folder.path().to_owned(), attributes };
        let find = |key: &str| environment.iter().find(|(name, _)| *name == key).map(|(_, text)| (*text).to_owned());
        detect(&config, find)
    }

    const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n";

    #[test]
    fn the_host_s_own_files_say_who_it_is() {
        let files = [
            ("etc/hostname", "web-1\n"),
            ("etc/machine-id", "0123456789ABCDEF0123456789abcdef\n"),
            ("etc/os-release", DEBIAN),
        ];
        let host = host(&files, &[], &[]);
        assert_eq!(host.get("host.name"), Some("web-1"));
        assert_eq!(host.get("host.id"), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!(host.get("os.name"), Some("Debian GNU/Linux"));
        assert_eq!(host.get("os.version"), Some("12"));
        assert!(host.get("os.description").unwrap().starts_with("Debian GNU/Linux 12 (bookworm) (kernel "));
        assert_eq!(host.get("os.type"), Some("linux"));
        assert_eq!(host.get("service.name"), None);
    }

    #[test]
    fn what_is_missing_or_not_yet_set_is_left_out() {
        let host =
            host(&[("etc/machine-id", "uninitialized\n")], &[("K8S_NODE_NAME", "node-7"), ("CLOUD_REGION", " ")], &[]);
        assert_eq!(host.get("host.id"), None);
        assert_eq!(host.get("os.name"), None);
        assert_eq!(host.get("cloud.region"), None);
        assert_eq!(host.get("host.name"), Some("node-7"));
        assert_eq!(host.get("k8s.node.name"), Some("node-7"));
    }

    #[test]
    fn configuration_wins_over_environment_and_environment_over_what_was_found() {
        let environment = [
            ("OTEL_RESOURCE_ATTRIBUTES", "host.name=from%20env,deployment.environment.name=staging"),
            ("OTEL_SERVICE_NAME", "edge"),
        ];
        let attributes = [("deployment.environment.name", "production")];
        let host = host(&[("etc/hostname", "web-1\n")], &environment, &attributes);
        assert_eq!(host.get("host.name"), Some("from env"));
        assert_eq!(host.get("deployment.environment.name"), Some("production"));
        assert_eq!(host.service_name(), "edge");
    }

    #[test]
    fn architectures_have_the_conventions_names() {
        for (machine, expected) in
            [("x86_64", "amd64"), ("aarch64", "arm64"), ("armv7l", "arm32"), ("riscv64", "riscv64")]
        {
            assert_eq!(architecture(machine), expected);
        }
    }
}
