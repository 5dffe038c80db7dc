"""A server of gRPC whose messages are plain bytes."""

import sys
import time
from concurrent import futures

import grpc


def missing(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such order")


def broken(request, context):
    context.abort(grpc.StatusCode.INTERNAL, "broken")


def slow(request, context):
    time.sleep(0.02)
    return request


def stream(request, context):
    for _ in range(3):
        yield request


unary = grpc.unary_unary_rpc_method_handler
handlers = {
    "Get": unary(lambda request, context: request),
    "Big": unary(lambda request, context: request),
    "Slow": unary(slow),
    "Missing": unary(missing),
    "Broken": unary(broken),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Orders", handlers)])
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
