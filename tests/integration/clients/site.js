// A site of the tests' own, over HTTP/1 and HTTP/2, with and without TLS: files of a folder, git, WebSocket, events.
// node site.js FOLDER CERT KEY: ports 80, 443, and 81 for HTTP/2 without TLS. What happens is said on standard output, one JSON array a line.
"use strict";
const crypto = require("crypto"), fs = require("fs"), http = require("http"), http2 = require("http2"), path = require("path");
const { spawn } = require("child_process");

const [root, cert, key] = process.argv.slice(2);
const TYPES = { ".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".png": "image/png" };
const waiting = { events: null, hold: null };

const say = (...words) => process.stdout.write(JSON.stringify(words) + "\n");

function files(request, response) {
        let name = path.join(root, path.normalize(decodeURIComponent(request.url.split("?")[0])));
        if (name.endsWith("/"))
                name += "index.html";
        fs.readFile(name, (error, data) => {
                response.writeHead(error ? 404 : 200, { "content-type": TYPES[path.extname(name)] || "application/octet-stream" });
                response.end(error ? "" : data);
        });
}

function git(request, response) {
        const [name, query] = request.url.split("?");
        const child = spawn("git", ["http-backend"], { env: {
                PATH: "/usr/bin:/bin", HOME: root, GIT_PROJECT_ROOT: root, GIT_HTTP_EXPORT_ALL: "1", PATH_INFO: name,
                QUERY_STRING: query || "", REQUEST_METHOD: request.method, CONTENT_TYPE: request.headers["content-type"] || "",
                HTTP_CONTENT_ENCODING: request.headers["content-encoding"] || "", GIT_PROTOCOL: request.headers["git-protocol"] || "",
                GIT_CONFIG_COUNT: "1", GIT_CONFIG_KEY_0: "safe.directory", GIT_CONFIG_VALUE_0: "*" } });
        const parts = [];
        request.pipe(child.stdin);
        child.stdin.on("error", () => {});
        child.stdout.on("data", part => parts.push(part));
        child.stdout.on("end", () => {
                const all = Buffer.concat(parts), end = all.indexOf("\r\n\r\n"), headers = {};
                for (const line of all.toString("latin1", 0, end).split("\r\n"))
                        headers[line.split(": ")[0].toLowerCase()] = line.split(": ")[1];
                const status = parseInt(headers.status || "200", 10);
                delete headers.status;
                response.writeHead(status, headers);
                response.end(all.subarray(end + 4));
        });
}

// Three events; each of the later two is sent only when the one before it was seen.
function events(response) {
        response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
        response.write("data: 1\n\n");
        waiting.events = response;
}

function seen(request, response) {
        const next = parseInt(request.url.split("?")[1], 10) + 1;
        if (next <= 3)
                waiting.events.write(`data: ${next}\n\n`);
        else
                waiting.events.end();
        response.end("noted\n");
}

function answer(request, response) {
        say("request", request.headers.host || request.authority, request.method, request.url, request.httpVersion,
            Boolean(request.socket.encrypted));
        const name = request.url.split("?")[0];
        response.setHeader("alt-svc", 'h3=":443"');
        if (name === "/hello")
                response.end(`hello by ${request.httpVersion}\n`);
        else if (name.startsWith("/repo.git"))
                git(request, response);
        else if (name === "/events")
                events(response);
        else if (name === "/seen")
                seen(request, response);
        else if (name === "/hold.png")
                waiting.hold = response;
        else if (name === "/release") {
                response.end();
                waiting.hold.end();
        } else
                files(request, response);
}

// Echoes text of up to 125 bytes.
function webSocket(request, socket) {
        say("websocket", request.headers.host, request.url, Boolean(socket.encrypted));
        const accept = crypto.createHash("sha1").update(request.headers["sec-websocket-key"] +
                                                        "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
        socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
                     `Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
        let got = Buffer.alloc(0);
        socket.on("error", () => {});
        socket.on("data", part => {
                got = Buffer.concat([got, part]);
                while (got.length >= 6 && got.length >= 6 + (got[1] & 127)) {
                        const n = got[1] & 127, text = got.subarray(6, 6 + n).map((c, i) => c ^ got[2 + i % 4]);
                        if ((got[0] & 15) === 8) {
                                socket.end(Buffer.from([0x88, 0]));
                                return;
                        }
                        socket.write(Buffer.concat([Buffer.from([0x81, n]), text]));
                        got = got.subarray(6 + n);
                }
        });
}

const secure = http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true });
const plain = http.createServer();
const bare = http2.createServer();
let listening = 0;
for (const [server, port] of [[secure, 443], [plain, 80], [bare, 81]]) {
        server.on("request", answer);
        server.on("upgrade", webSocket);
        server.on("connection", socket => say("connection", socket.localAddress, port));
        server.on("clientError", (_, socket) => socket.destroy());
        server.on("tlsClientError", () => {});
        server.listen(port, "0.0.0.0", () => ++listening === 3 && say("ready"));
}
