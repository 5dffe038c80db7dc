"""Calls of gRPC over one connection, by as many threads as are told; prints how long each took."""

import sys
import threading
import time

import grpc

channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])


def call(method, request):
    if method == "Stream":
        return list(channel.unary_stream("/shop.Orders/Stream")(request))
    return channel.unary_unary("/shop.Orders/" + method)(request)


def calls():
    for _ in range(5):
        for method in ["Get", "Slow", "Missing", "Broken", "Nowhere", "Big", "Stream"]:
            begin = time.perf_counter()
            try:
                call(method, b"x" * (1 << 20 if method == "Big" else 100))
            except grpc.RpcError:
                pass
            print("took", time.perf_counter() - begin)


threads = [threading.Thread(target=calls) for _ in range(int(sys.argv[2]))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
channel.close()
