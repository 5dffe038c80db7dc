//! OTLP from applications on this host.
