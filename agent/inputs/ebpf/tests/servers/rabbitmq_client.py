"""Publishes messages and gets them back."""

import sys

import pika

connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", int(sys.argv[1])))
channel = connection.channel()
channel.queue_declare("orders", exclusive=True)
channel.confirm_delivery()
for _ in range(10):
    channel.basic_publish("", "orders", b"order")
for _ in range(5):
    channel.basic_get("orders", auto_ack=True)
for delivered in channel.consume("orders", auto_ack=True):
    if delivered[0].delivery_tag == 10:
        break
channel.cancel()
try:
    channel.queue_declare("nowhere", passive=True)
except pika.exceptions.ChannelClosedByBroker:
    pass
connection.close()
