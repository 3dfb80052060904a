#!/usr/bin/env node
// The client of the TypeScript SDK v1 (`@modelcontextprotocol/sdk`). It speaks the legacy era only.
import { checks } from './checks.mjs';
import { load, main } from './harness.mjs';

const { Client } = await load('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = await load('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { SSEClientTransport } = await load('@modelcontextprotocol/sdk/client/sse.js');
const { StdioClientTransport } = await load('@modelcontextprotocol/sdk/client/stdio.js');
const types = await load('@modelcontextprotocol/sdk/types.js');

const CAPABILITIES = { elicitation: { form: {}, url: {} }, sampling: {}, roots: { listChanged: true } };

await main(async ({ url, program, sse, headers, answers, events }) => {
    const client = new Client({ name: 'client-ts-v1', version: '1.0.0' }, { capabilities: CAPABILITIES });
    const reply = (name, none) => answers[name] ?? (() => none);
    client.setRequestHandler(types.ElicitRequestSchema, ({ params }) =>
        reply('elicit', { action: 'cancel' })(params)
    );
    client.setRequestHandler(types.CreateMessageRequestSchema, ({ params }) => reply('sample')(params));
    client.setRequestHandler(types.ListRootsRequestSchema, () => ({ roots: reply('roots', [])() }));
    client.setNotificationHandler(
        types.LoggingMessageNotificationSchema,
        it => void events.emit('log', it.params)
    );
    client.setNotificationHandler(
        types.ResourceUpdatedNotificationSchema,
        it => void events.emit('updated', it.params.uri)
    );
    client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => void events.emit('tools'));
    client.setNotificationHandler(
        types.PromptListChangedNotificationSchema,
        () => void events.emit('prompts')
    );
    client.setNotificationHandler(
        types.ResourceListChangedNotificationSchema,
        () => void events.emit('resources')
    );

    let version;
    const transport = program
        ? new StdioClientTransport({ ...program, stderr: 'ignore' })
        : sse
          ? new SSEClientTransport(url, { requestInit: { headers } })
          : new StreamableHTTPClientTransport(url, { requestInit: { headers } });
    const { setProtocolVersion } = transport;
    transport.setProtocolVersion = agreed => {
        version = agreed;
        setProtocolVersion?.call(transport, agreed);
    };
    await client.connect(transport);

    const pages = {
        tools: cursor => client.listTools({ cursor }),
        prompts: cursor => client.listPrompts({ cursor }),
        resources: cursor => client.listResources({ cursor }),
        templates: async cursor => {
            const { resourceTemplates, nextCursor } = await client.listResourceTemplates({ cursor });
            return { templates: resourceTemplates, nextCursor };
        }
    };

    return {
        era: 'legacy',
        version,
        serverInfo: client.getServerVersion(),
        capabilities: client.getServerCapabilities(),
        instructions: client.getInstructions(),
        sessionId: () => transport.sessionId,
        list: async kind => {
            const items = [];
            let cursor;
            do {
                const page = await pages[kind](cursor);
                items.push(...page[kind]);
                cursor = page.nextCursor;
            } while (cursor !== undefined);
            return items;
        },
        call: (name, args, { meta, ...options } = {}) =>
            client.callTool({ name, arguments: args, _meta: meta }, undefined, options),
        raw: (method, params) => client.request({ method, params }, types.ResultSchema),
        read: uri => client.readResource({ uri }),
        prompt: (name, args) => client.getPrompt({ name, arguments: args }),
        complete: (ref, argument, context) =>
            client.complete({ ref, argument, ...(context && { context: { arguments: context } }) }),
        watch: async ({ uri }) => uri && client.subscribeResource({ uri }),
        setLevel: level => client.setLoggingLevel(level),
        rootsChanged: () => client.sendRootsListChanged(),
        ping: () => client.ping(),
        terminate: async () => transport.terminateSession?.(),
        close: () => client.close()
    };
}, checks);
