// @ts-check
// A client for metamcp's framed stream (docs/FRAMES.md) for Node.js 20 and newer, without packages or a build step. Types are
// checked by TypeScript.
//
//     METAMCP_KEY=mcp_... node framed.mjs http://127.0.0.1:12009/api/v1/mcp/stream [--lines]

import assert from "node:assert";
import http from "node:http";
import https from "node:https";
import { pathToFileURL } from "node:url";

/** @typedef {any} Json The content of a message is not validated. */
/** @typedef {{ resolve: (result: Json) => void, reject: (error: Error) => void }} PendingRequest */
/**
 * @typedef {object} Options
 * @property {string} [key]
 * @property {boolean} [lines]
 * @property {(message: Json) => Promise<Json>} [onRequest] Handles requests from servers: gets the message, returns the result.
 * @property {(message: Json) => void} [onNotification]
 */

const HEADER_BYTES = 20; // magic, version, flags, method, length: four bytes each, little-endian
const RESPONSE_FLAG = 1;

export class FramedStream {
    /** @type {Map<number, PendingRequest>} */
    #pending = new Map();
    #nextId = 1;
    /** @type {Buffer} */
    #buffer = Buffer.alloc(0);
    /** @type {Error | undefined} */
    #ended;
    #request;
    #options;

    /** @param {http.ClientRequest} request @param {Options} options */
    constructor(request, options) {
        this.#request = request;
        this.#options = options;
    }

    /** @param {string} url @param {Options} [options] @returns {Promise<FramedStream>} */
    static open(url, options = {}) {
        const type = options.lines ? "application/x-ndjson" : "application/vnd.metamcp.frames";
        /** @type {Record<string, string>} */
        const headers = { "content-type": type, "transfer-encoding": "chunked" };
        if (options.key) headers.authorization = `Bearer ${options.key}`;
        const client = url.startsWith("https:") ? https : http;
        const request = client.request(url, { method: "POST", headers });
        const stream = new FramedStream(request, options);
        return new Promise((resolve, reject) => {
            request.on("error", (error) => (reject(error), stream.#end(error)));
            request.on("response", (response) => {
                if (response.statusCode !== 200) {
                    const fail = (/** @type {Buffer} */ text) => reject(new Error(`HTTP ${response.statusCode}: ${text}`));
                    response.on("data", fail);
                    return;
                }
                response.on("data", (chunk) => stream.#receive(chunk));
                response.on("end", () => stream.#end(new Error("the stream ended")));
                response.on("error", (error) => stream.#end(error));
                resolve(stream);
            });
            request.flushHeaders();
        });
    }

    /** @param {string} method @param {Json} [params] @returns {Promise<Json>} */
    request(method, params = {}) {
        if (this.#ended) return Promise.reject(this.#ended);
        const id = this.#nextId++;
        return new Promise((resolve, reject) => {
            this.#pending.set(id, { resolve, reject });
            this.#send({ jsonrpc: "2.0", id, method, params });
        });
    }

    /** @param {string} method @param {Json} [params] */
    notify(method, params = {}) {
        this.#send({ jsonrpc: "2.0", method, params });
    }

    /** Ends the requests. The gateway responds to those in flight, then ends the stream. */
    close() {
        this.#request.end();
    }

    /** @param {Json} message */
    #send(message) {
        const payload = Buffer.from(JSON.stringify(message) + (this.#options.lines ? "\n" : ""));
        if (this.#options.lines) {
            this.#request.write(payload);
            return;
        }
        const header = Buffer.alloc(HEADER_BYTES);
        header.write("MCPF", "latin1");
        header.writeUInt32LE(1, 4);
        header.writeUInt32LE("method" in message ? 0 : RESPONSE_FLAG, 8);
        header.writeUInt32LE(payload.length, 16);
        this.#request.write(Buffer.concat([header, payload]));
    }

    /** @param {Buffer} chunk */
    #receive(chunk) {
        this.#buffer = this.#buffer.length ? Buffer.concat([this.#buffer, chunk]) : chunk;
        let at = 0;
        for (;;) {
            const next = this.#options.lines ? this.#line(at) : this.#frame(at);
            if (!next) break;
            // Empty messages keep the connection alive.
            if (next.payload.length) this.#dispatch(JSON.parse(next.payload.toString()));
            at = next.end;
        }
        this.#buffer = this.#buffer.subarray(at);
    }

    /** @param {number} at */
    #line(at) {
        const end = this.#buffer.indexOf("\n", at);
        return end < 0 ? undefined : { payload: this.#buffer.subarray(at, end), end: end + 1 };
    }

    /** @param {number} at */
    #frame(at) {
        if (this.#buffer.length < at + HEADER_BYTES) return undefined;
        assert.strictEqual(this.#buffer.toString("latin1", at, at + 4), "MCPF");
        const end = at + HEADER_BYTES + this.#buffer.readUInt32LE(at + 16);
        return end > this.#buffer.length ? undefined : { payload: this.#buffer.subarray(at + HEADER_BYTES, end), end };
    }

    /** @param {Json} message */
    #dispatch(message) {
        if (message.method === undefined) {
            const pending = this.#pending.get(message.id);
            this.#pending.delete(message.id);
            if (pending && message.error) pending.reject(new Error(JSON.stringify(message.error)));
            else if (pending) pending.resolve(message.result);
            else if (message.error?.data?.last) this.#end(new Error(message.error.message));
            else console.error("message without a known request:", message);
        } else if (message.id === undefined) {
            this.#options.onNotification?.(message);
        } else {
            void this.#handleRequest(message);
        }
    }

    /** @param {Json} message */
    async #handleRequest(message) {
        const response = { jsonrpc: "2.0", id: message.id };
        if (this.#options.onRequest) this.#send({ ...response, result: await this.#options.onRequest(message) });
        else this.#send({ ...response, error: { code: -32601, message: "method not found" } });
    }

    /** @param {Error} why */
    #end(why) {
        this.#ended ??= why;
        for (const { reject } of this.#pending.values()) reject(this.#ended);
        this.#pending.clear();
        this.#request.end();
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
