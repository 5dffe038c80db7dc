//! Which container a log file is of, from its path, and for Docker from what Docker keeps beside it.
//!
//! - `/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restart>.log` (the kubelet);
//! - `/var/log/containers/<pod>_<namespace>_<container>-<id>.log` (its links to those);
//! - `/var/lib/docker/containers/<id>/<id>-json.log`, with `config.v2.json` beside it;
//! - `/var/lib/containers/storage/overlay-containers/<id>/userdata/ctr.log` (Podman).
//!
//! Invariant: what the path does not say stays unsaid; nothing is asked of any API.

use crate::open::open;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::value;
use ollystack_schema::names::semconv;
use serde::Deserialize;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

/// Docker's own are a few kilobytes; labels may be long.
const DOCKER_CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What is known of a container; empty: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    id: String,
    name: String,
    image: String,
    namespace: String,
    pod: String,
    pod_uid: String,
    /// The container's name within its pod.
    pod_container: String,
    compose_service: String,
}

impl Container {
    /// Of a log file; `None` if it is of none.
    pub(crate) fn of(path: &Path) -> Option<Container> {
        let parts: Vec<&str> = path.iter().map(|part| part.to_str().unwrap_or_default()).collect();
        match parts.as_slice() {
            [.., "pods", pod, container, _file] => of_pod(pod, container),
            [.., "containers", id, file] if is_id(id) && file.strip_suffix("-json.log") == Some(id) => {
                Some(Container { id: (*id).to_owned(), ..docker(path).unwrap_or_default() })
            }
            [.., "containers", file] => of_link(file),
            [.., "overlay-containers", id, "userdata", _file] if is_id(id) => {
                Some(Container { id: (*id).to_owned(), ..Container::default() })
            }
            _ => None,
        }
    }

    /// The service that it is: as Compose or its pod call it, else by its own name, else by its id as Docker shortens it.
    pub(crate) fn service(&self) -> &str {
        let short = &self.id[..self.id.len().min(12)];
        let names = [&self.compose_service, &self.pod_container, &self.name];
        names.into_iter().map(String::as_str).find(|name| !name.is_empty()).unwrap_or(short)
    }

    /// As resource attributes.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = KeyValue> {
        let all = [
            (semconv::CONTAINER_ID, &self.id),
            (semconv::CONTAINER_NAME, &self.name),
            (semconv::CONTAINER_IMAGE_NAME, &self.image),
            (semconv::K8S_NAMESPACE_NAME, &self.namespace),
            (semconv::K8S_POD_NAME, &self.pod),
            (semconv::K8S_POD_UID, &self.pod_uid),
            (semconv::K8S_CONTAINER_NAME, &self.pod_container),
        ];
        all.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| value::string(key, text))
    }
}

fn of_pod(pod: &str, container: &str) -> Option<Container> {
    let mut parts = pod.split('_').map(str::to_owned);
    let (Some(namespace), Some(pod), Some(pod_uid), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(Container { namespace, pod, pod_uid, pod_container: container.to_owned(), ..Container::default() })
}

fn of_link(file: &str) -> Option<Container> {
    let mut parts = file.strip_suffix(".log")?.splitn(3, '_').map(str::to_owned);
    let (pod, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (pod_container, id) = rest.rsplit_once('-').filter(|(name, id)| is_id(id) && !name.is_empty())?;
    let (pod_container, id) = (pod_container.to_owned(), id.to_owned());
    Some(Container { id, pod, namespace, pod_container, ..Container::default() })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What Docker knows of the container whose log is at `path`.
fn docker(path: &Path) -> Option<Container> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct State {
        #[serde(default)]
        name: String,
        #[serde(default)]
        config: Settings,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Settings {
        #[serde(default)]
        image: String,
        labels: Option<HashMap<String, String>>,
    }
    let folder = path.parent()?;
    let file = open(folder, &folder.join("config.v2.json"), false).ok()?;
    let mut bytes = Vec::new();
    file.take(DOCKER_CONFIG_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let State { name, config: Settings { image, labels } } = serde_json::from_slice(&bytes).ok()?;
    let mut labels = labels.unwrap_or_default();
    let mut label = |key: &str| labels.remove(key).unwrap_or_default();
    Some(Container {
        id: String::new(),
        name: name.trim_start_matches('/').to_owned(),
        image,
        namespace: label("io.kubernetes.pod.namespace"),
        pod: label("io.kubernetes.pod.name"),
        pod_uid: label("io.kubernetes.pod.uid"),
        pod_container: label("io.kubernetes.container.name"),
        compose_service: label("com.docker.compose.service"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn said(path: &Path) -> Option<(String, Vec<String>)> {
        let container = Container::of(path)?;
        let text = |pair: KeyValue| {
            let text = value::string_attribute(std::slice::from_ref(&pair), &pair.key).unwrap_or_default().to_owned();
            format!("{}={text}", pair.key)
        };
        Some((container.service().to_owned(), container.attributes().map(text).collect()))
    }

    #[test]
    fn the_path_names_pod_and_container() {
        let link = format!("/var/log/containers/checkout-7d4b9c6f5-x2x9z_shop_server-{ID}.log");
        let podman = format!("/var/lib/containers/storage/overlay-containers/{ID}/userdata/ctr.log");
        let id = format!("container.id={ID}");
        let table = [
            (
                "/var/log/pods/shop_checkout-x_0a1b-2c/server/0.log",
                Some((
                    "server",
                    vec![
                        "k8s.namespace.name=shop",
                        "k8s.pod.name=checkout-x",
                        "k8s.pod.uid=0a1b-2c",
                        "k8s.container.name=server",
                    ],
                )),
            ),
            (
                &link,
                Some((
                    "server",
                    vec![
                        &id,
                        "k8s.namespace.name=shop",
                        "k8s.pod.name=checkout-7d4b9c6f5-x2x9z",
                        "k8s.container.name=server",
                    ],
                )),
            ),
            (&podman, Some(("0123456789ab", vec![&id]))),
            ("/var/log/containers/odd.log", None),
            ("/var/log/pods/odd/server/0.log", None),
            ("/var/log/nginx/access.log", None),
        ];
        for (path, expected) in table {
            let expected =
                expected.map(|(service, said)| (service.to_owned(), said.into_iter().map(str::to_owned).collect()));
            assert_eq!(said(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn docker_s_own_notes_name_the_container() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("containers").join(ID);
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join(format!("{ID}-json.log"));
        let id = format!("container.id={ID}");
        assert_eq!(said(&log), Some(("0123456789ab".into(), vec![id.clone()])), "without notes");
        let notes = |labels: &str| {
            let text = format!(r#"{{"ID":"x","Name":"/shop-web-1","Config":{{"Image":"shop:7","Labels":{labels}}}}}"#);
            std::fs::write(folder.join("config.v2.json"), text).unwrap();
            said(&log).unwrap()
        };
        let expected = vec![id, "container.name=shop-web-1".into(), "container.image.name=shop:7".into()];
        assert_eq!(notes("null"), ("shop-web-1".into(), expected.clone()));
        assert_eq!(notes(r#"{"com.docker.compose.service":"web"}"#), ("web".into(), expected));
        let (service, said) = notes(r#"{"io.kubernetes.pod.name":"p","io.kubernetes.container.name":"c"}"#);
        assert_eq!(
            (service.as_str(), &said[3..]),
            ("c", &["k8s.pod.name=p".to_owned(), "k8s.container.name=c".to_owned()][..])
        );
    }
}
