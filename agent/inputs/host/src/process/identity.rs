//! Who a process is: the resource its samples belong to.
//!
//! From /proc/<pid>/{exe,cgroup,environ,cmdline,status} to attributes on top of the host's. Arguments may hold secrets and
//! are sent only on request; the environment is read for the service's name and never sent. Invariant: what cannot be read
//! (another user's process, one that is gone) is left out, never guessed.

use super::stat::{self, Stat};
use crate::read;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::{Resource, service_name, value};
use ollystack_schema::names::semconv;
use std::path::Path;

/// Enough for the variables that matter, which a service manager sets first or last of a few kilobytes.
const ENVIRONMENT_BYTES_MAX: usize = 64 << 10;
const ARGUMENTS_BYTES_MAX: usize = 4 << 10;

/// Read what there is and put it together.
pub(crate) fn resource(proc: &Path, stat: &Stat, created: u64, host: &Resource, arguments: bool) -> Resource {
    let folder = proc.join(stat.pid.to_string());
    let mut buffer = Vec::new();
    let mut text = |file: &str, max| {
        let read = read::read_at_most(&folder.join(file), &mut buffer, max);
        if read.is_ok() { buffer.clone() } else { Vec::new() }
    };
    let path = std::fs::read_link(folder.join("exe")).ok();
    let path = path.map(|path| path.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    let parts = Parts {
        path,
        cgroup: String::from_utf8_lossy(&text("cgroup", ARGUMENTS_BYTES_MAX)).into_owned(),
        environ: text("environ", ENVIRONMENT_BYTES_MAX),
        cmdline: text("cmdline", ARGUMENTS_BYTES_MAX),
        user: stat::parse_status(&text("status", ENVIRONMENT_BYTES_MAX)).1,
    };
    let mut attributes = host.attributes().to_vec();
    attributes.extend(parts.attributes(stat, created, arguments));
    Resource::new(attributes)
}

/// What was read.
#[derive(Debug, Default)]
struct Parts {
    path: Option<String>,
    cgroup: String,
    environ: Vec<u8>,
    cmdline: Vec<u8>,
    user: Option<u64>,
}

impl Parts {
    fn attributes(&self, stat: &Stat, created: u64, arguments: bool) -> Vec<KeyValue> {
        let name = String::from_utf8_lossy(&stat.name);
        let file_name = self.path.as_deref().and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
        let executable = file_name.unwrap_or(&name);
        let process =
            service_name::Process { environ: &self.environ, cgroup: &self.cgroup, cmdline: &self.cmdline, executable };
        let mut attributes = vec![
            value::int(semconv::PROCESS_PID, i64::from(stat.pid)),
            value::int(semconv::PROCESS_PARENT_PID, i64::from(stat.parent)),
            value::string(semconv::PROCESS_EXECUTABLE_NAME, executable),
            value::string(semconv::PROCESS_CREATION_TIME, iso_8601(created)),
            value::string(semconv::SERVICE_NAME, service_name::service_name(process)),
        ];
        let optional = [
            (semconv::PROCESS_EXECUTABLE_PATH, self.path.clone()),
            (semconv::CONTAINER_ID, service_name::container_id(&self.cgroup).map(str::to_owned)),
            (semconv::K8S_POD_UID, service_name::pod_uid(&self.cgroup)),
            (semconv::PROCESS_COMMAND_LINE, arguments.then(|| self.command_line()).filter(|line| !line.is_empty())),
        ];
        attributes.extend(optional.into_iter().filter_map(|(key, text)| Some(value::string(key, text?))));
        attributes
            .extend(self.user.and_then(|user| Some(value::int(semconv::PROCESS_USER_ID, i64::try_from(user).ok()?))));
        attributes
    }

    fn command_line(&self) -> String {
        let words = self.cmdline.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
    }
}

/// `2026-11-20T09:12:08.123Z`, from nanoseconds since the epoch. Days to dates after Howard Hinnant's `civil_from_days`.
fn iso_8601(nanos: u64) -> String {
    let (seconds, ms) = (nanos / 1_000_000_000, nanos / 1_000_000 % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_conventions_want_them() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
            (1_795_164_916_500_000_000, "2026-11-20T08:55:16.500Z"),
            (4_107_542_399_999_999_999, "2100-02-28T23:59:59.999Z"),
        ];
        for (nanos, expected) in table {
            assert_eq!(iso_8601(nanos), expected);
        }
    }

    #[test]
    fn a_process_is_told_by_its_executable_and_arguments_are_sent_only_on_request() {
        let stat = stat::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        let parts = Parts {
            path: Some("/usr/sbin/nginx".into()),
            cgroup: "0::/system.slice/web.service\n".into(),
            cmdline: b"nginx\0-p\0secret\0".to_vec(),
            user: Some(33),
            ..Parts::default()
        };
        let resource = Resource::new(parts.attributes(&stat, 0, false));
        assert_eq!(resource.get("process.executable.name"), Some("nginx"));
        assert_eq!(resource.service_name(), "web");
        assert_eq!(resource.get("process.command_line"), None);
        let resource = Resource::new(parts.attributes(&stat, 0, true));
        assert_eq!(resource.get("process.command_line"), Some("nginx -p secret"));
    }

    #[test]
    fn a_process_that_is_gone_keeps_the_name_the_scan_saw() {
        let stat = Stat { pid: u32::MAX, ..stat::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap() };
        let host = Resource::new(vec![value::string("host.name", "h")]);
        let resource = resource(Path::new("/proc"), &stat, 0, &host, true);
        assert_eq!(resource.get("host.name"), Some("h"));
        let expected = String::from_utf8_lossy(&stat.name);
        assert_eq!(resource.get("process.executable.name"), Some(expected.as_ref()));
        assert_eq!(resource.get("process.executable.path"), None);
    }
}
