"""Writes documents and finds them again, and asks for what there is not. Prints how long each command took: `took SECONDS`."""

import sys

import pymongo
from pymongo import errors, monitoring


class Clock(monitoring.CommandListener):
    """What the client itself measures."""

    def started(self, event):
        pass

    def succeeded(self, event):
        print("took", event.duration_micros / 1e6)

    failed = succeeded


client = pymongo.MongoClient("127.0.0.1", int(sys.argv[1]), event_listeners=[Clock()])
orders = client.shop.orders
orders.insert_many({"_id": number, "name": "order"} for number in range(250))
for number in (250, 7):
    try:
        orders.insert_one({"_id": number})
    except errors.DuplicateKeyError:
        pass
assert len(list(orders.find(batch_size=100))) == 251
for number in range(10):
    assert orders.find_one({"_id": number})["name"] == "order"
orders.update_many({"_id": {"$lt": 100}}, {"$set": {"name": "other"}})
orders.count_documents({"name": "other"})
orders.delete_one({"_id": 7})
for command in ({"noSuchCommand": 1}, {"find": "orders", "filter": {"$noSuchOperator": 1}}):
    try:
        client.shop.command(command)
    except errors.OperationFailure:
        pass
client.shop.drop_collection("orders")
client.close()
