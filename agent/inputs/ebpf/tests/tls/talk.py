"""HTTP over TLS by Python: `talk.py (serve|ask) (direct|memory) CERTIFICATE [PORT PREFIX COUNT CONNECTIONS]`.

`direct` gives the library the socket (ssl.SSLSocket), `memory` gives it bytes (asyncio). A server says its port, a client
that it is done; both end when their input does.
"""

import asyncio
import http.client
import http.server
import ssl
import sys
import threading


def status_of(path):
    return {3: 404, 4: 503}.get(int(path.rsplit("/", 1)[1]) % 5, 200)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(status_of(self.path))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def finish_request(self, request, address):
        super().finish_request(self.context.wrap_socket(request, server_side=True), address)


async def answer(reader, writer):
    while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
        status = status_of(head.split(b" ")[1].decode())
        writer.write(b"HTTP/1.1 %d Told\r\nContent-Length: 2\r\n\r\nok" % status)
        await writer.drain()


async def answer_until_closed(reader, writer):
    try:
        await answer(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


def until_told():
    print(flush=True)
    sys.stdin.read()


def serve(way, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if way == "direct":
        server = Server(("127.0.0.1", 0), Handler)
        server.context = context
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], end="")
        until_told()
        return

    async def run():
        server = await asyncio.start_server(answer_until_closed, "127.0.0.1", 0, ssl=context)
        print(server.sockets[0].getsockname()[1], end="")
        await asyncio.get_running_loop().run_in_executor(None, until_told)

    asyncio.run(run())


def ask(way, certificate, port, prefix, count, connections):
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    turns = [range(first, int(count), int(connections)) for first in range(int(connections))]
    if way == "direct":
        for numbers in turns:
            connection = http.client.HTTPSConnection("127.0.0.1", int(port), context=context)
            for number in numbers:
                connection.request("GET", f"{prefix}{number}", headers={"Host": "shop.local"})
                connection.getresponse().read()
            connection.close()
    else:

        async def one(numbers):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
            for number in numbers:
                writer.write(f"GET {prefix}{number} HTTP/1.1\r\nHost: shop.local\r\n\r\n".encode())
                await reader.readuntil(b"\r\n\r\nok")
            writer.close()

        async def all_at_once():
            await asyncio.gather(*map(one, turns))

        asyncio.run(all_at_once())
    until_told()


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
