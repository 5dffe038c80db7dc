//! Who and where the telemetry comes from: host, process, container and service attributes.
