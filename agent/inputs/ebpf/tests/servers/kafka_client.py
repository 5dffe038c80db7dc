"""Makes a topic twice, writes to it, reads it as a member of a group, and asks for a topic that there is not.

Prints each request as the client's own log has it, in the order in which they were sent: `asked NAME`, `refused ERROR NAME` or
`failed ERROR NAME`, and then `took SECONDS`.
"""

import logging
import re
import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, errors
from kafka.admin import NewTopic

# Of the broker's own condition.
FAILURES = (
    errors.CoordinatorLoadInProgressError,
    errors.CoordinatorNotAvailableError,
    errors.LeaderNotAvailableError,
    errors.NotCoordinatorError,
    errors.NotLeaderForPartitionError,
)
SERVER = {"bootstrap_servers": "127.0.0.1:" + sys.argv[1]}


class Log(logging.Handler):
    """Requests and their answers, as the connections tell of them."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.waiting = {}

    def emit(self, record):
        if " Request %d: " in record.msg:
            self.request(*record.args)
        elif ": Response %d (" in record.msg:
            self.response(*record.args)

    def request(self, connection, number, request):
        topic = re.search(r"\b(?:topic|name)='([^']+)'", str(request))
        name = type(request).__name__.removesuffix("Request")
        if name in ("Produce", "Fetch"):
            name = {"Produce": "publish", "Fetch": "receive"}[name] + (" " + topic[1] if topic else "")
        if " acks=0," in str(request):
            self.lines.append("asked " + name + "\ntook 0")
        else:
            self.waiting[connection, number] = name, len(self.lines)
            self.lines.append(None)

    def response(self, connection, number, milliseconds, response):
        name, place = self.waiting.pop((connection, number))
        code = re.search(r"\berror_code=(-?[1-9]\d*)", str(response))
        error = errors.for_code(int(code[1])) if code else errors.NoError
        if error in (errors.NoError, errors.MemberIdRequiredError):
            # What found nothing is no exchange, nor is a heartbeat.
            if name.startswith("receive") and not re.search(r"\brecords=b(['\"])(?!\1)", str(response)) or name == "Heartbeat":
                return
            told = "asked " + name
        else:
            told = ("failed " if error in FAILURES else "refused ") + error.message + " " + name
        self.lines[place] = told + "\ntook " + str(milliseconds / 1000)


log = Log()
connections = logging.getLogger("kafka.net.connection")
connections.setLevel(logging.DEBUG)
connections.propagate = False
connections.addHandler(log)

admin = KafkaAdminClient(client_id="admin", **SERVER)
admin.create_topics([NewTopic("orders", 1, 1)])
try:
    admin.create_topics([NewTopic("orders", 1, 1)])
except errors.TopicAlreadyExistsError:
    pass
admin.close()
for options in ({}, {"acks": 0, "enable_idempotence": False}):
    producer = KafkaProducer(client_id="producer", **options, **SERVER)
    for _ in range(10):
        producer.send("orders", b"order").get(10)
    producer.close()
consumer = KafkaConsumer("orders", client_id="consumer", group_id="group", auto_offset_reset="earliest", **SERVER)
taken = 0
while taken < 20:
    taken += sum(map(len, consumer.poll(1000, max_records=20).values()))
consumer.close()
producer = KafkaProducer(client_id="producer", max_block_ms=300, **SERVER)
try:
    producer.send("nowhere", b"order")
except errors.KafkaTimeoutError:
    pass
producer.close()
print(*filter(None, log.lines), sep="\n")
