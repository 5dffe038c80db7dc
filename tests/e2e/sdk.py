"""An application with the official OpenTelemetry SDK: sends one trace, four metrics and three log records, configured by the
standard OTEL_* variables alone, and prints as JSON what it has sent, in the words of ClickHouse's tables.

    sdk.py grpc|http
"""

import json
import sys
from importlib import import_module
from time import time_ns

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.metrics import Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

ATTRIBUTES = {
    "text": "größe \u2603 'quoted' \\ \n \u0000 end",
    "empty": "",
    "integer": -9_007_199_254_740_993,
    "double": 0.25,
    "yes": True,
    "no": False,
    "list": ["a", "b\"c"],
}


def as_text(value):
    """A value as the tables hold it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(list(value) if isinstance(value, tuple) else value, separators=(",", ":"))


def as_map(attributes):
    return {key: as_text(value) for key, value in (attributes or {}).items()}


def exporter(protocol, module, name):
    return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}"), name)()


def must(done, what):
    if not done:
        sys.exit(f"the SDK could not deliver its {what}")


def send_trace(protocol, resource):
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter(protocol, "trace_exporter", "OTLPSpanExporter")))
    tracer = provider.get_tracer("e2e.tracer", "1.2.3")
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER, attributes=ATTRIBUTES) as server:
        link = trace.Link(server.get_span_context(), {"why": "itself"})
        with tracer.start_as_current_span("query", kind=SpanKind.CLIENT, links=[link], attributes={"db.system": "x"}) as client:
            client.add_event("retry", {"attempt": 2})
        with tracer.start_as_current_span("compute") as inner:
            inner.set_status(Status(StatusCode.ERROR, "out of cheese"))
    must(provider.force_flush(), "spans")
    provider.shutdown()
    kinds = {SpanKind.SERVER: "Server", SpanKind.CLIENT: "Client", SpanKind.INTERNAL: "Internal"}
    codes = {StatusCode.UNSET: "Unset", StatusCode.OK: "Ok", StatusCode.ERROR: "Error"}
    return [
        {
            "TraceId": f"{span.context.trace_id:032x}",
            "SpanId": f"{span.context.span_id:016x}",
            "ParentSpanId": f"{span.parent.span_id:016x}" if span.parent else "",
            "SpanName": span.name,
            "SpanKind": kinds[span.kind],
            "StatusCode": codes[span.status.status_code],
            "StatusMessage": span.status.description or "",
            "Duration": str(span.end_time - span.start_time),
            "ScopeName": "e2e.tracer",
            "ScopeVersion": "1.2.3",
            "SpanAttributes": as_map(span.attributes),
            "EventNames": [event.name for event in span.events],
            "EventAttributes": [as_map(event.attributes) for event in span.events],
            "LinkTraceIds": [f"{link.context.trace_id:032x}" for link in span.links],
            "LinkAttributes": [as_map(link.attributes) for link in span.links],
        }
        for span in (server, client, inner)
    ]


def send_metrics(protocol, resource):
    reader = PeriodicExportingMetricReader(exporter(protocol, "metric_exporter", "OTLPMetricExporter"), 3_600_000)
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    meter = provider.get_meter("e2e.meter", "1.2.3")
    counter = meter.create_counter("e2e.counter", "1")
    up_down = meter.create_up_down_counter("e2e.up_down", "1")
    histogram = meter.create_histogram("e2e.histogram", "ms")
    meter.create_observable_gauge("e2e.gauge", [lambda _: [Observation(21.5, ATTRIBUTES)]], "Cel")
    # Zero first, so that whoever counts increases has seen where the counters began.
    counter.add(0, ATTRIBUTES)
    up_down.add(0, ATTRIBUTES)
    must(provider.force_flush(), "metrics")
    counter.add(7, ATTRIBUTES)
    up_down.add(-3, ATTRIBUTES)
    for value in (1, 20, 300):
        histogram.record(value, ATTRIBUTES)
    must(provider.force_flush(), "metrics")
    provider.shutdown()
    names = ("e2e.counter", "e2e.up_down", "e2e.gauge", "e2e.histogram")
    return [{"MetricName": name, "Attributes": as_map(ATTRIBUTES)} for name in names]


def send_logs(protocol, resource):
    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter(protocol, "_log_exporter", "OTLPLogExporter")))
    logger = provider.get_logger("e2e.logger", "1.2.3")
    sent = []
    for number, (severity, text, body, attributes) in enumerate(
        [
            (SeverityNumber.INFO, "INFO", "plain text", ATTRIBUTES),
            (SeverityNumber.ERROR, "ERROR", "größe \u2603\nsecond line", {"exception.type": "Oops"}),
            (SeverityNumber.DEBUG, "DEBUG", "debugging", None),
        ]
    ):
        time = time_ns() - number
        logger.emit(
            LogRecord(
                timestamp=time, observed_timestamp=time, severity_number=severity, severity_text=text, body=body, attributes=attributes
            )
        )
        sent.append(
            {
                "Time": str(time),
                "SeverityNumber": severity.value,
                "SeverityText": text,
                "Body": body,
                "ScopeName": "e2e.logger",
                "ScopeVersion": "1.2.3",
                "LogAttributes": as_map(attributes),
            }
        )
    must(provider.force_flush(), "logs")
    provider.shutdown()
    return sent


def main():
    protocol = sys.argv[1]
    resource = Resource.create({"deployment.environment.name": "e2e", "numbers": [1, 2]})
    sent = {
        "resource": as_map(resource.attributes),
        "spans": send_trace(protocol, resource),
        "metrics": send_metrics(protocol, resource),
        "logs": send_logs(protocol, resource),
    }
    print(json.dumps(sent))


main()
