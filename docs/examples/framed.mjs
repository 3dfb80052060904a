// @ts-check
// A client of metamcp's framed stream (docs/FRAMES.md) for Node.js 20 and newer, without packages and without a build;
// its types are TypeScript's.
//
//     METAMCP_KEY=mcp_... node framed.mjs http://127.0.0.1:12009/api/v1/mcp/stream [--lines]

import assert from "node:assert";
import http from "node:http";
import https from "node:https";
import { pathToFileURL } from "node:url";

/** @typedef {any} Json What a message says is for its reader to check. */
/** @typedef {{ resolve: (result: Json) => void, reject: (error: Error) => void }} Waiting */
/**
 * @typedef {object} Options
 * @property {string} [key]
 * @property {boolean} [lines]
 * @property {(message: Json) => Promise<Json>} [onRequest] Answers what servers ask: gets the message, gives the result.
 * @property {(message: Json) => void} [onNotification]
 */

const HEADER_BYTES = 20; // magic, version, flags, method, length: four bytes each, little endian
const ANSWER = 1;

export class FramedStream {
    /** @type {Map<number, Waiting>} */
    #waiting = new Map();
    #nextId = 1;
    /** @type {Buffer} */
    #held = Buffer.alloc(0);
    /** @type {Error | undefined} */
    #ended;
    #sent;
    #options;

    /** @param {http.ClientRequest} sent @param {Options} options */
    constructor(sent, options) {
        this.#sent = sent;
        this.#options = options;
    }

    /** @param {string} url @param {Options} [options] @returns {Promise<FramedStream>} */
    static open(url, options = {}) {
        const type = options.lines ? "application/x-ndjson" : "application/vnd.metamcp.frames";
        /** @type {Record<string, string>} */
        const headers = { "content-type": type, "transfer-encoding": "chunked" };
        if (options.key) headers.authorization = `Bearer ${options.key}`;
        const { request } = url.startsWith("https:") ? https : http;
        const sent = request(url, { method: "POST", headers });
        const stream = new FramedStream(sent, options);
        return new Promise((resolve, reject) => {
            sent.on("error", (error) => (reject(error), stream.#end(error)));
            sent.on("response", (response) => {
                if (response.statusCode !== 200) {
                    const refuse = (/** @type {Buffer} */ text) => reject(new Error(`HTTP ${response.statusCode}: ${text}`));
                    response.on("data", refuse);
                    return;
                }
                response.on("data", (chunk) => stream.#take(chunk));
                response.on("end", () => stream.#end(new Error("the stream ended")));
                response.on("error", (error) => stream.#end(error));
                resolve(stream);
            });
            sent.flushHeaders();
        });
    }

    /** @param {string} method @param {Json} [params] @returns {Promise<Json>} */
    request(method, params = {}) {
        if (this.#ended) return Promise.reject(this.#ended);
        const id = this.#nextId++;
        return new Promise((resolve, reject) => {
            this.#waiting.set(id, { resolve, reject });
            this.#send({ jsonrpc: "2.0", id, method, params });
        });
    }

    /** @param {string} method @param {Json} [params] */
    notify(method, params = {}) {
        this.#send({ jsonrpc: "2.0", method, params });
    }

    /** No more requests: what is under way is answered, then the stream ends. */
    close() {
        this.#sent.end();
    }

    /** @param {Json} message */
    #send(message) {
        const payload = Buffer.from(JSON.stringify(message) + (this.#options.lines ? "\n" : ""));
        if (this.#options.lines) {
            this.#sent.write(payload);
            return;
        }
        const header = Buffer.alloc(HEADER_BYTES);
        header.write("MCPF", "latin1");
        header.writeUInt32LE(1, 4);
        header.writeUInt32LE("method" in message ? 0 : ANSWER, 8);
        header.writeUInt32LE(payload.length, 16);
        this.#sent.write(Buffer.concat([header, payload]));
    }

    /** @param {Buffer} chunk */
    #take(chunk) {
        this.#held = this.#held.length ? Buffer.concat([this.#held, chunk]) : chunk;
        let at = 0;
        for (;;) {
            const next = this.#options.lines ? this.#line(at) : this.#frame(at);
            if (!next) break;
            // Those without content keep the connection alive.
            if (next.payload.length) this.#read(JSON.parse(next.payload.toString()));
            at = next.end;
        }
        this.#held = this.#held.subarray(at);
    }

    /** @param {number} at */
    #line(at) {
        const end = this.#held.indexOf("\n", at);
        return end < 0 ? undefined : { payload: this.#held.subarray(at, end), end: end + 1 };
    }

    /** @param {number} at */
    #frame(at) {
        if (this.#held.length < at + HEADER_BYTES) return undefined;
        assert.strictEqual(this.#held.toString("latin1", at, at + 4), "MCPF");
        const end = at + HEADER_BYTES + this.#held.readUInt32LE(at + 16);
        return end > this.#held.length ? undefined : { payload: this.#held.subarray(at + HEADER_BYTES, end), end };
    }

    /** @param {Json} message */
    #read(message) {
        if (message.method === undefined) {
            const waiting = this.#waiting.get(message.id);
            this.#waiting.delete(message.id);
            if (waiting && message.error) waiting.reject(new Error(JSON.stringify(message.error)));
            else if (waiting) waiting.resolve(message.result);
            else if (message.error?.data?.last) this.#end(new Error(message.error.message));
            else console.error("of no request known here:", message);
        } else if (message.id === undefined) {
            this.#options.onNotification?.(message);
        } else {
            void this.#asked(message);
        }
    }

    /** @param {Json} message */
    async #asked(message) {
        const answer = { jsonrpc: "2.0", id: message.id };
        if (this.#options.onRequest) this.#send({ ...answer, result: await this.#options.onRequest(message) });
        else this.#send({ ...answer, error: { code: -32601, message: "not done here" } });
    }

    /** @param {Error} why */
    #end(why) {
        this.#ended ??= why;
        for (const { reject } of this.#waiting.values()) reject(this.#ended);
        this.#waiting.clear();
        this.#sent.end();
    }
}

async function main() {
    const options = { key: process.env.METAMCP_KEY, lines: process.argv.includes("--lines") };
    const stream = await FramedStream.open(process.argv[2], options);
    const { serverInfo } = await stream.request("initialize", {
        protocolVersion: "2025-11-25",
        capabilities: {},
        clientInfo: { name: "framed.mjs", version: "1" },
    });
    stream.notify("notifications/initialized");
    const { tools } = await stream.request("tools/list");
    const pings = await Promise.all(Array.from({ length: 1000 }, () => stream.request("ping")));
    pings.forEach((ping) => assert.deepStrictEqual(ping, {}));
    const echo = tools.find((/** @type {Json} */ tool) => tool.name.endsWith("echo")).name;
    const texts = Array.from({ length: 100 }, (_, n) => `call ${n}`);
    const calls = await Promise.all(texts.map((text) => stream.request("tools/call", { name: echo, arguments: { text } })));
    calls.forEach((call, n) => assert(JSON.stringify(call).includes(texts[n])));
    stream.close();
    console.log(`${serverInfo.name}: ${tools.length} tools, ${pings.length} pings, ${calls.length} calls of ${echo}`);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
