// What the page could load, as text of #result. The load event waits for it: /hold.png is answered after /release. The URL's
// query says whose WebSocket is tried.
"use strict";

function echoed(text) {
        return new Promise((resolve, reject) => {
                const socket = new WebSocket(location.search.slice(1) + "/echo");
                socket.onopen = () => socket.send(text);
                socket.onmessage = event => {
                        socket.close();
                        resolve(event.data);
                };
                socket.onerror = () => reject(new Error("no WebSocket"));
        });
}

function threeEvents() {
        return new Promise((resolve, reject) => {
                const source = new EventSource("/events");
                let got = "";
                source.onmessage = event => {
                        got += event.data;
                        fetch("/seen?" + event.data);
                        if (got.length < 3)
                                return;
                        source.close();
                        resolve(got);
                };
                source.onerror = () => reject(new Error("no events"));
        });
}

async function outcome(promise) {
        try {
                return await promise;
        } catch (error) {
                return "failed";
        }
}

function decoded(id) {
        return document.getElementById(id).decode().then(() => "loaded");
}

async function tryAll() {
        const found = {};
        found.hello = await outcome(fetch("/hello").then(r => r.text()));
        found.style = getComputedStyle(document.getElementById("styled")).position;
        found.script = window.fromCdn || "failed";
        found.image = await outcome(decoded("image"));
        found.denied = await outcome(decoded("denied"));
        found.fetchDenied = await outcome(fetch("https://evil.test/hello", { mode: "no-cors" }).then(() => "loaded"));
        found.socket = await outcome(echoed("there and back"));
        found.events = await outcome(threeEvents());
        found.protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
        document.getElementById("result").textContent = JSON.stringify(found);
        await fetch("/release", { method: "POST" });
}

tryAll();
