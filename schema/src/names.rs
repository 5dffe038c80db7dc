//! Every name that more than one crate must spell alike: our metrics, attributes and headers, and OpenTelemetry's keys.
//!
//! OpenTelemetry names follow its semantic conventions 1.44. Invariant: a name stands here once; migrations that need one in SQL
//! repeat it, and a test holds them equal.

/// Metric: duration of every span, before sampling, as a delta exponential histogram in seconds of scale [`HISTOGRAM_SCALE`].
/// Attributes: `service.name`, `span.name`, `span.kind` ([`SPAN_KINDS`] in lower case), `status.code` ([`STATUS_CODES`] in lower case).
/// Its count is the requests, its count with status `error` the errors. Feeds `service_metrics_1m`.
pub const SPAN_DURATION: &str = "ollystack.span.duration";

/// Base scale of the exponential histograms that we build. A bucket's middle is within 2^(2^-7) - 1 = 0.54% of any value in it,
/// inside the 1% that is promised; 1 ms to 1 min are 1,015 buckets. `service_metrics_1m` uses it for spans.
pub const HISTOGRAM_SCALE: i32 = 6;

/// Metric metadata key: what the agent folded the metric from. A delta histogram that carries it is not a histogram.
pub const FOLD: &str = "ollystack.fold";

/// The value of [`FOLD`] for a folded gauge: count, sum, min and max are the window's, its one exemplar the last value and its time.
pub const FOLD_GAUGE: &str = "gauge";

/// The value of [`FOLD`] for a folded sum that goes up and down; otherwise as [`FOLD_GAUGE`].
pub const FOLD_UPDOWNCOUNTER: &str = "updowncounter";

/// Log attribute: how many equal lines the record stands for; absent means 1. Becomes `LineCount`.
pub const LOG_COUNT: &str = "ollystack.log.count";

/// Log attribute: time of the last of the lines that the record stands for, in nanoseconds since the epoch; its own is the first's.
pub const LOG_LAST: &str = "ollystack.log.last_time";

/// Log attribute: some of the lines that the record stands for, as they were.
pub const LOG_SAMPLES: &str = "ollystack.log.samples";

/// Log attribute: the trace ids of [`LOG_SAMPLES`], in hexadecimal, empty where there is none.
pub const LOG_SAMPLE_TRACES: &str = "ollystack.log.samples.trace_ids";

/// Log attribute: the pattern of the line, equal wherever the template is: XXH3 of it, 16 hexadecimal digits. Becomes `PatternId`.
pub const LOG_PATTERN_ID: &str = "ollystack.log.pattern.id";

/// Attribute that marks the series that takes the values past a limit on series.
pub const OVERFLOW: &str = "otel.metric.overflow";

/// Metric: TCP connections established; those accepted are counted when they close. Its attributes and those of the others of
/// TCP: [`key::TCP_DIRECTION`], and what of `server.address`, `server.port` and `client.address` is of low cardinality.
pub const TCP_CONNECTIONS: &str = "ollystack.tcp.connections";

/// Metric: TCP connections that could not be established, with `error.type`.
pub const TCP_CONNECTIONS_FAILED: &str = "ollystack.tcp.connections.failed";

/// Metric: payload bytes sent over TCP connections that closed.
pub const TCP_SENT: &str = "ollystack.tcp.sent";

/// Metric: payload bytes received over TCP connections that closed.
pub const TCP_RECEIVED: &str = "ollystack.tcp.received";

/// Metric: TCP segments sent again.
pub const TCP_RETRANSMITS: &str = "ollystack.tcp.retransmits";

/// Metric: smoothed round trip of TCP connections in seconds, at their close, as a delta histogram.
pub const TCP_ROUND_TRIP: &str = "ollystack.tcp.round_trip";

/// Metric: duration of requests between two services, before sampling, as [`SPAN_DURATION`] has it of operations. Attributes: who called
/// whom ([`key::EDGE_SOURCE`] and its like), `span.kind` of the side that measured, `status.code`. Feeds `service_topology`.
pub const EDGE_DURATION: &str = "ollystack.edge.duration";

/// Metric of the semantic conventions: how long names took to be looked up, as [`SPAN_DURATION`] has it of operations. Attributes:
/// `service.name`, `dns.question.name`, and `error.type` of those that failed.
pub const DNS_LOOKUP_DURATION: &str = "dns.lookup.duration";

/// Metric: TCP connections open between two services, whatever they speak. Attributes: who called whom. Feeds `service_topology`.
pub const EDGE_CONNECTIONS: &str = "ollystack.edge.connections";

/// Metric: payload bytes that the calling side sent over them; what a connection carried after it was last looked at is not in it.
pub const EDGE_SENT: &str = "ollystack.edge.sent";

/// Metric: payload bytes that the calling side received over them.
pub const EDGE_RECEIVED: &str = "ollystack.edge.received";

/// Metric: mean smoothed round trip of them, in seconds.
pub const EDGE_ROUND_TRIP: &str = "ollystack.edge.round_trip";

/// Metric, always 1: the service of that name answers at `server.address` and `server.port`. Without a port, the address is of that
/// service alone; without a service, it is the host's. Names what other hosts know by its address in `service_topology`.
pub const ENDPOINT: &str = "ollystack.endpoint";

/// Metric: programs started, by `process.executable.name`.
pub const PROCESS_STARTS: &str = "ollystack.process.starts";

/// Metric: processes ended, by `process.executable.name` and [`key::PROCESS_OUTCOME`].
pub const PROCESS_EXITS: &str = "ollystack.process.exits";

/// Metric: processes that the kernel killed for want of memory, under the victim's service, container and pod.
pub const PROCESS_OOM_KILLS: &str = "ollystack.process.oom_kills";

/// Metric: duration of requests to block devices in seconds, as a delta exponential histogram; its count agrees with
/// `system.disk.operations`, its sum with `system.disk.operation_time`. Attributes: `system.device`, and `disk.io.direction`, which
/// beside `read` and `write` may be `flush` or `discard`.
pub const DISK_OPERATION_DURATION: &str = "ollystack.disk.operation.duration";

/// Metric: how long threads that could run waited for a CPU, in seconds, as a delta exponential histogram under the container,
/// pod or service that their control group is.
pub const RUN_QUEUE_LATENCY: &str = "ollystack.run_queue.latency";

/// Metric: seconds in which some or all work stood still for want of a resource (Linux PSI), a running total. Attributes:
/// [`key::PRESSURE_RESOURCE`] and [`key::PRESSURE_SHARE`].
pub const PRESSURE_STALL_TIME: &str = "system.linux.pressure.stall_time";

/// Log attribute, `true` on a line that was longer than the limit: the record holds its beginning.
pub const LOG_CUT: &str = "ollystack.log.cut";

/// Log attribute: how many lines of its file or journal the record's text is (a stack trace is one record); absent means 1.
pub const LOG_LINES: &str = "ollystack.log.lines";

/// Event name of the log record of a program's start.
pub const EVENT_PROCESS_EXEC: &str = "process.exec";

/// Event name of the log record of a process' end.
pub const EVENT_PROCESS_EXIT: &str = "process.exit";

/// Event name of the log record of a process that the kernel killed for want of memory.
pub const EVENT_PROCESS_OOM_KILL: &str = "process.oom_kill";

/// Event name of the log record of what a service's processes spent CPU time on. Its body has a line a stack: functions from the
/// outermost on between semicolons, the command's name before them, a space and the ticks of the clock that found it so.
pub const EVENT_PROFILE_CPU: &str = "profile.cpu";

/// Metric: an agent's ledger as it stands, over every start of its installation, in records: feeds `agent_ledger`. Attributes: the four
/// of [`key`] from [`key::SIGNAL`] on; seen + corrected = sent + folded + sampled_out + suppressed + dropped + waiting.
pub const AGENT_LEDGER: &str = "ollystack.agent.ledger";

/// Request header: the sending agent's UUID.
pub const HEADER_AGENT: &str = "x-ollystack-agent";

/// Request header: number of the delivery within the agent, decimal u64.
pub const HEADER_SEQUENCE: &str = "x-ollystack-sequence";

/// Request header: `1` when an earlier attempt of the same delivery may have arrived.
pub const HEADER_REDELIVERED: &str = "x-ollystack-redelivered";

/// Request header: when the attempt was sent by the gateways' clock ([`HEADER_CLOCK`]), in milliseconds since the epoch; 0 when the
/// sender has not heard that clock yet. Whatever a pause or a queue on the way does, a gateway can tell an old attempt by it.
pub const HEADER_SENT: &str = "x-ollystack-sent-ms";

/// Request header of a redelivery: how long ago the last attempt was sent that may have arrived, or a shorter time, in
/// milliseconds.
pub const HEADER_ATTEMPT_AGE: &str = "x-ollystack-attempt-age-ms";

/// Response header: the gateway's clock, in milliseconds since the epoch.
pub const HEADER_CLOCK: &str = "x-ollystack-clock-ms";

/// Response header of a refusal: the attempt wrote nothing, and nothing of it is still to be written. [`UNTOUCHED_ALL`] or
/// [`UNTOUCHED_THIS`].
pub const HEADER_UNTOUCHED: &str = "x-ollystack-untouched";

/// Response header: the most of its ordinary traces that an agent is to keep, 0 to 1.
pub const HEADER_SAMPLING_RATIO_MAX: &str = "x-ollystack-sampling-ratio-max";

/// Response header: what an agent is to multiply the share of ordinary traces by that it keeps, above 0 and up to 1, so that its tenant's
/// quotas last.
pub const HEADER_SAMPLING_SCALE: &str = "x-ollystack-sampling-scale";

/// The value of [`HEADER_UNTOUCHED`] when other deliveries would fare no better now.
pub const UNTOUCHED_ALL: &str = "all";

/// The value of [`HEADER_UNTOUCHED`] when this delivery alone has to wait.
pub const UNTOUCHED_THIS: &str = "this";

/// The vendor key of OpenTelemetry in W3C tracestate (`ot=th:...`).
pub const TRACESTATE_VENDOR: &str = "ot";

/// The rejection threshold within it: up to 14 hexadecimal digits, trailing zeros left out.
pub const TRACESTATE_THRESHOLD: &str = "th";

/// `traces_raw.SpanKind` by OTLP's number.
pub const SPAN_KINDS: [&str; 6] = ["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"];

/// `traces_raw.StatusCode` by OTLP's number.
pub const STATUS_CODES: [&str; 3] = ["Unset", "Ok", "Error"];

/// Attribute keys of our own metrics.
pub mod key {
    /// Operation of a span.
    pub const SPAN_NAME: &str = "span.name";
    /// One of [`SPAN_KINDS`](super::SPAN_KINDS) in lower case.
    pub const SPAN_KIND: &str = "span.kind";
    /// One of [`STATUS_CODES`](super::STATUS_CODES) in lower case.
    pub const STATUS_CODE: &str = "status.code";
    /// Who opened a TCP connection: `outbound` this host, `inbound` the other, `unknown` when it is older than the agent.
    pub const TCP_DIRECTION: &str = "ollystack.tcp.direction";
    /// How a process ended: `success`, `failure` (a status other than 0) or `signal`.
    pub const PROCESS_OUTCOME: &str = "ollystack.process.outcome";
    /// What work stood still for: `cpu`, `memory` or `io`.
    pub const PRESSURE_RESOURCE: &str = "system.linux.pressure.resource";
    /// Whether `some` or all (`full`) work stood still.
    pub const PRESSURE_SHARE: &str = "system.linux.pressure.share";
    /// Who called: a service, a queue that was read from, or an address.
    pub const EDGE_SOURCE: &str = "ollystack.edge.source";
    /// What kind of thing that is: one of [`edge_kind`](super::edge_kind).
    pub const EDGE_SOURCE_KIND: &str = "ollystack.edge.source.kind";
    /// Who was called.
    pub const EDGE_TARGET: &str = "ollystack.edge.target";
    /// What kind of thing that is.
    pub const EDGE_TARGET_KIND: &str = "ollystack.edge.target.kind";
    /// What they speak, for example `http` or `postgresql`; `tcp` where it is not known.
    pub const EDGE_PROTOCOL: &str = "ollystack.edge.protocol";
    /// Address and port that the caller connected to, or that an address leads to that is translated on its way, where the service behind
    /// them is not known to the caller's host. On spans only in the latter case.
    pub const EDGE_ADDRESS: &str = "ollystack.edge.address";
    /// `metrics`, `logs` or `traces`.
    pub const SIGNAL: &str = "ollystack.signal";
    /// Which account the records are of: when it began, in seconds since the epoch. A new one begins when the former is lost.
    pub const LEDGER_ACCOUNT: &str = "ollystack.ledger.account";
    /// `seen`, `corrected`, `sent`, `folded`, `sampled_out`, `suppressed`, `dropped` or `waiting`.
    pub const LEDGER_OUTCOME: &str = "ollystack.ledger.outcome";
    /// Why dropped; where waiting or corrected. The others have none.
    pub const LEDGER_DETAIL: &str = "ollystack.ledger.detail";
    /// Number of the signal that ended a process.
    pub const PROCESS_SIGNAL: &str = "ollystack.process.signal";
    /// Ticks of the clock that a profile tells of.
    pub const PROFILE_TICKS: &str = "ollystack.profile.ticks";
    /// How often the clock of each CPU ticks: ticks divided by it are CPU seconds.
    pub const PROFILE_TICKS_PER_SECOND: &str = "ollystack.profile.ticks_per_second";
    /// How long a profile's window was.
    pub const PROFILE_DURATION_MS: &str = "ollystack.profile.duration_ms";
    /// Bytes of memory that a process had when it was killed.
    pub const PROCESS_RESIDENT_BYTES: &str = "ollystack.process.resident_bytes";
}

/// What the ends of an edge of the service map may be.
pub mod edge_kind {
    /// A service, by its `service.name`.
    pub const SERVICE: &str = "service";
    /// A database: the service that it is, where that is known, else its system, name and address.
    pub const DATABASE: &str = "database";
    /// A queue: its system and destination.
    pub const QUEUE: &str = "queue";
    /// Somebody at this address.
    pub const ADDRESS: &str = "address";
    /// Somebody on the internet.
    pub const INTERNET: &str = "internet";
}

/// OpenTelemetry's attribute keys; a constant's name is its key in upper case.
#[allow(missing_docs, reason = "the semantic conventions document each key")]
pub mod semconv {
    pub const CLIENT_ADDRESS: &str = "client.address";
    pub const CLOUD_ACCOUNT_ID: &str = "cloud.account.id";
    pub const CLOUD_AVAILABILITY_ZONE: &str = "cloud.availability_zone";
    pub const CLOUD_PROVIDER: &str = "cloud.provider";
    pub const CLOUD_REGION: &str = "cloud.region";
    pub const CONTAINER_ID: &str = "container.id";
    pub const CONTAINER_IMAGE_NAME: &str = "container.image.name";
    pub const CONTAINER_NAME: &str = "container.name";
    pub const CONTAINER_RUNTIME_NAME: &str = "container.runtime.name";
    pub const CPU_LOGICAL_NUMBER: &str = "cpu.logical_number";
    pub const CPU_MODE: &str = "cpu.mode";
    pub const DB_COLLECTION_NAME: &str = "db.collection.name";
    pub const DB_NAMESPACE: &str = "db.namespace";
    pub const DB_OPERATION_NAME: &str = "db.operation.name";
    pub const DB_QUERY_SUMMARY: &str = "db.query.summary";
    pub const DB_QUERY_TEXT: &str = "db.query.text";
    pub const DB_RESPONSE_STATUS_CODE: &str = "db.response.status_code";
    pub const DB_SYSTEM_NAME: &str = "db.system.name";
    pub const DISK_IO_DIRECTION: &str = "disk.io.direction";
    pub const DNS_QUESTION_NAME: &str = "dns.question.name";
    pub const DNS_QUESTION_TYPE: &str = "dns.question.type";
    pub const DNS_RESPONSE_CODE: &str = "dns.response_code";
    pub const ERROR_TYPE: &str = "error.type";
    pub const HOST_ARCH: &str = "host.arch";
    pub const HOST_ID: &str = "host.id";
    pub const HOST_NAME: &str = "host.name";
    pub const HTTP_REQUEST_BODY_SIZE: &str = "http.request.body.size";
    pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
    pub const HTTP_RESPONSE_BODY_SIZE: &str = "http.response.body.size";
    pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
    pub const HTTP_ROUTE: &str = "http.route";
    pub const K8S_CLUSTER_NAME: &str = "k8s.cluster.name";
    pub const K8S_CONTAINER_NAME: &str = "k8s.container.name";
    pub const K8S_NAMESPACE_NAME: &str = "k8s.namespace.name";
    pub const K8S_NODE_NAME: &str = "k8s.node.name";
    pub const K8S_POD_NAME: &str = "k8s.pod.name";
    pub const K8S_POD_UID: &str = "k8s.pod.uid";
    pub const LOG_FILE_NAME: &str = "log.file.name";
    pub const LOG_FILE_PATH: &str = "log.file.path";
    pub const LOG_IOSTREAM: &str = "log.iostream";
    pub const MESSAGING_CLIENT_ID: &str = "messaging.client.id";
    pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
    pub const MESSAGING_DESTINATION_TEMPLATE: &str = "messaging.destination.template";
    pub const MESSAGING_DESTINATION_TEMPORARY: &str = "messaging.destination.temporary";
    pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
    pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
    pub const MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
    pub const MESSAGING_SYSTEM: &str = "messaging.system";
    pub const NETWORK_CONNECTION_STATE: &str = "network.connection.state";
    pub const NETWORK_INTERFACE_NAME: &str = "network.interface.name";
    pub const NETWORK_IO_DIRECTION: &str = "network.io.direction";
    pub const NETWORK_PEER_ADDRESS: &str = "network.peer.address";
    pub const NETWORK_PEER_PORT: &str = "network.peer.port";
    pub const NETWORK_PROTOCOL_NAME: &str = "network.protocol.name";
    pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
    pub const NETWORK_TRANSPORT: &str = "network.transport";
    pub const OS_DESCRIPTION: &str = "os.description";
    pub const OS_NAME: &str = "os.name";
    pub const OS_TYPE: &str = "os.type";
    pub const OS_VERSION: &str = "os.version";
    pub const PROCESS_COMMAND_LINE: &str = "process.command_line";
    pub const PROCESS_CONTEXT_SWITCH_TYPE: &str = "process.context_switch.type";
    pub const PROCESS_CREATION_TIME: &str = "process.creation.time";
    pub const PROCESS_EXECUTABLE_NAME: &str = "process.executable.name";
    pub const PROCESS_EXECUTABLE_PATH: &str = "process.executable.path";
    pub const PROCESS_EXIT_CODE: &str = "process.exit.code";
    pub const PROCESS_LINUX_CGROUP: &str = "process.linux.cgroup";
    pub const PROCESS_PARENT_PID: &str = "process.parent_pid";
    pub const PROCESS_PID: &str = "process.pid";
    pub const PROCESS_STATE: &str = "process.state";
    pub const PROCESS_USER_ID: &str = "process.user.id";
    pub const RPC_GRPC_STATUS_CODE: &str = "rpc.grpc.status_code";
    pub const RPC_METHOD: &str = "rpc.method";
    pub const RPC_SERVICE: &str = "rpc.service";
    pub const RPC_SYSTEM: &str = "rpc.system";
    pub const SERVER_ADDRESS: &str = "server.address";
    pub const SERVER_PORT: &str = "server.port";
    pub const SERVICE_NAME: &str = "service.name";
    pub const SERVICE_PEER_NAME: &str = "service.peer.name";
    pub const SYSTEM_DEVICE: &str = "system.device";
    pub const SYSTEM_FILESYSTEM_MODE: &str = "system.filesystem.mode";
    pub const SYSTEM_FILESYSTEM_MOUNTPOINT: &str = "system.filesystem.mountpoint";
    pub const SYSTEM_FILESYSTEM_STATE: &str = "system.filesystem.state";
    pub const SYSTEM_FILESYSTEM_TYPE: &str = "system.filesystem.type";
    pub const SYSTEM_MEMORY_LINUX_SLAB_STATE: &str = "system.memory.linux.slab.state";
    pub const SYSTEM_MEMORY_STATE: &str = "system.memory.state";
    pub const SYSTEM_PAGING_DIRECTION: &str = "system.paging.direction";
    pub const SYSTEM_PAGING_FAULT_TYPE: &str = "system.paging.fault.type";
    pub const SYSTEM_PAGING_STATE: &str = "system.paging.state";
    pub const TLS_ESTABLISHED: &str = "tls.established";
    pub const URL_PATH: &str = "url.path";
    pub const URL_SCHEME: &str = "url.scheme";
    pub const URL_TEMPLATE: &str = "url.template";
    pub const USER_AGENT_ORIGINAL: &str = "user_agent.original";
}

/// Headers of messages in Kafka, beside [`HEADER_AGENT`], [`HEADER_SEQUENCE`] and [`HEADER_REDELIVERED`]: text, numbers in decimal.
pub mod kafka {
    /// Whose records they are.
    pub const HEADER_TENANT: &str = "x-ollystack-tenant";

    /// `service.name` of the resource.
    pub const HEADER_SERVICE: &str = "x-ollystack-service";

    /// When the gateway took them, in seconds since the epoch.
    pub const HEADER_INGESTED_AT: &str = "x-ollystack-ingested-at";

    /// When their rows expire, in seconds since the epoch.
    pub const HEADER_EXPIRES_AT: &str = "x-ollystack-expires-at";

    /// For how many seconds they are kept.
    pub const HEADER_RETENTION: &str = "x-ollystack-retention-seconds";

    /// Data points, log records or spans in the message.
    pub const HEADER_RECORDS: &str = "x-ollystack-records";

    /// Of the same delivery and service, in messages before this one.
    pub const HEADER_RECORDS_BEFORE: &str = "x-ollystack-records-before";

    /// Bytes that their rows take in a gateway, about.
    pub const HEADER_ROW_BYTES: &str = "x-ollystack-row-bytes";
}
