#!/usr/bin/env node
// The client of the TypeScript SDK v1 whose connection breaks in the middle of an answer: it comes back for the rest by
// itself (`Last-Event-ID`), and has every notification once, and the answer.
//
//     resume.mjs URL TOOL STEPS
//
// STEPS is the progress that the tool tells, as a JSON list.
import { load } from './harness.mjs';

const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');

const CALL_MS = 20_000;

const [url, tool, expected] = process.argv.slice(2);
let toBreak = 1;
let resumed = 0;

/** The first piece of the body, and then an error as of a connection that was reset. */
function broken(response) {
    const reader = response.body.getReader();
    const body = new ReadableStream({
        async pull(controller) {
            const { value, done } = await reader.read();
            if (done) return controller.close();
            controller.enqueue(value);
            await reader.cancel();
            controller.error(new Error('the connection broke'));
        }
    });
    return new Response(body, { status: response.status, headers: response.headers });
}

async function breaking(input, init) {
    const response = await fetch(input, init);
    if (new Headers(init.headers).has('last-event-id') && response.ok) resumed++;
    const isStream = response.headers.get('content-type')?.includes('event-stream');
    return init.method === 'POST' && isStream && toBreak-- > 0 ? broken(response) : response;
}

const client = new Client({ name: 'client-ts-v1', version: '1.0.0' }, { capabilities: {} });
await client.connect(new StreamableHTTPClientTransport(new URL(url), { fetch: breaking }));
const steps = [];
const call = { name: tool, arguments: {} };
const onprogress = ({ progress }) => steps.push(progress);
const result = await client.callTool(call, undefined, { onprogress, timeout: CALL_MS });
await client.close();
const ok = resumed === 1 && !result.isError && JSON.stringify(steps) === JSON.stringify(JSON.parse(expected));
console.log(`ts-v1: ${ok ? 'ok' : 'FAILED'}: resumed ${resumed} times, progress ${steps}`);
process.exit(ok ? 0 : 1);
