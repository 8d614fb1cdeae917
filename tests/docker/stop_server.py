"""A platform that is asked to stop a machine: prints each request, and agrees."""

import http.server


class Platform(http.server.BaseHTTPRequestHandler):
    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        print(self.command, self.path, self.headers["Authorization"], body, flush=True)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT = answer

    def log_message(self, *_: object) -> None:
        return


print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", 8000), Platform).serve_forever()
