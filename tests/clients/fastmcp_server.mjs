// A small server written with `fastmcp` of npm, over stdio; fastmcp_server.py has the same names.
import { setTimeout as pause } from 'node:timers/promises';
import { load } from './harness.mjs';

const { FastMCP, UserError, imageContent } = await load('fastmcp');
const { z } = await load('zod');

const PIXEL = Buffer.from('89504e470d0a1a0a0000000d494844520000000100000001', 'hex');

const server = new FastMCP({
    name: 'small-fastmcp',
    version: '1.2.3',
    instructions: 'Adds, echoes and waits.'
});

server.addTool({
    name: 'echo',
    description: 'Says it again.',
    annotations: { readOnlyHint: true, title: 'Echo' },
    parameters: z.object({ text: z.string() }),
    execute: async ({ text }) => text
});
server.addTool({
    name: 'add',
    description: 'Adds two numbers.',
    parameters: z.object({ a: z.number(), b: z.number() }),
    outputSchema: z.object({ sum: z.number() }),
    execute: async ({ a, b }) => ({
        content: [{ type: 'text', text: `${a + b}` }],
        structuredContent: { sum: a + b }
    })
});
server.addTool({
    name: 'picture',
    description: 'A picture.',
    execute: () => imageContent({ buffer: PIXEL })
});
server.addTool({
    name: 'fail',
    description: 'Fails.',
    execute: async () => {
        throw new UserError('it was asked to fail: ☃');
    }
});
server.addTool({
    name: 'count',
    description: 'Counts, with progress.',
    parameters: z.object({ steps: z.number(), pause_ms: z.number() }),
    execute: async ({ steps, pause_ms }, { reportProgress }) => {
        for (let step = 1; step <= steps; step++) {
            await pause(pause_ms);
            await reportProgress({ progress: step, total: steps });
        }
        return `counted to ${steps}`;
    }
});
server.addResource({
    uri: 'leaf://static',
    name: 'note',
    mimeType: 'text/plain',
    load: async () => ({ text: 'a note' })
});
server.addResourceTemplate({
    uriTemplate: 'leaf://{number}/text',
    name: 'numbered',
    mimeType: 'text/plain',
    arguments: [{ name: 'number', required: true }],
    load: async ({ number }) => ({ text: `note ${number}` })
});
server.addPrompt({
    name: 'greet',
    description: 'Greets.',
    arguments: [{ name: 'name', required: true }],
    load: async ({ name }) => `Say hello to ${name}.`
});

await server.start({ transportType: 'stdio' });
