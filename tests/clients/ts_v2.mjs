#!/usr/bin/env node
// The client of the TypeScript SDK v2 (`@modelcontextprotocol/client`): `--era legacy` (its default), `--era auto`,
// which speaks the modern era with a server that has it, or `--era modern`, which speaks no other.
import { checks } from './checks.mjs';
import { load, main } from './harness.mjs';

const { Client, SSEClientTransport, StreamableHTTPClientTransport, LOG_LEVEL_META_KEY } = await load(
    '@modelcontextprotocol/client'
);
const { StdioClientTransport } = await load('@modelcontextprotocol/client/stdio');

/** A schema, as the SDK wants one, which leaves a result as it came. */
const ANY = { '~standard': { version: 1, vendor: 'metamcp', validate: value => ({ value }) } };

const CAPABILITIES = { elicitation: { form: {}, url: {} }, sampling: {}, roots: { listChanged: true } };
/** What the SDK calls an era. */
const MODES = { legacy: 'legacy', auto: 'auto', modern: { pin: '2026-07-28' } };
const FRESH = { cacheMode: 'refresh' };

await main(async ({ url, program, sse, headers, flags, answers, events }) => {
    const client = new Client(
        { name: 'client-ts-v2', version: '1.0.0' },
        { capabilities: CAPABILITIES, versionNegotiation: { mode: MODES[flags.era ?? 'legacy'] } }
    );
    const reply = (name, none) => answers[name] ?? (() => none);
    client.setRequestHandler('elicitation/create', ({ params }) =>
        reply('elicit', { action: 'cancel' })(params)
    );
    client.setRequestHandler('sampling/createMessage', ({ params }) => reply('sample')(params));
    client.setRequestHandler('roots/list', () => ({ roots: reply('roots', [])() }));
    client.setNotificationHandler('notifications/message', it => void events.emit('log', it.params));
    client.setNotificationHandler(
        'notifications/resources/updated',
        it => void events.emit('updated', it.params.uri)
    );
    client.setNotificationHandler('notifications/tools/list_changed', () => void events.emit('tools'));
    client.setNotificationHandler('notifications/prompts/list_changed', () => void events.emit('prompts'));
    client.setNotificationHandler(
        'notifications/resources/list_changed',
        () => void events.emit('resources')
    );

    const transport = program
        ? new StdioClientTransport({ ...program, stderr: 'ignore' })
        : sse
          ? new SSEClientTransport(url, { requestInit: { headers } })
          : new StreamableHTTPClientTransport(url, { requestInit: { headers } });
    await client.connect(transport);
    const modern = client.getProtocolEra() === 'modern';
    const subscriptions = [];
    let levelMeta = {};

    const lists = {
        tools: async () => (await client.listTools(undefined, FRESH)).tools,
        prompts: async () => (await client.listPrompts(undefined, FRESH)).prompts,
        resources: async () => (await client.listResources(undefined, FRESH)).resources,
        templates: async () => (await client.listResourceTemplates(undefined, FRESH)).resourceTemplates
    };

    async function watch({ uri, list }) {
        if (modern) {
            const filter = uri ? { resourceSubscriptions: [uri] } : { [`${list}ListChanged`]: true };
            subscriptions.push(await client.listen(filter));
        } else if (uri) await client.subscribeResource({ uri });
    }

    return {
        era: modern ? 'modern' : 'legacy',
        version: client.getNegotiatedProtocolVersion(),
        serverInfo: client.getServerVersion(),
        capabilities: client.getServerCapabilities(),
        instructions: client.getInstructions(),
        sessionId: () => transport.sessionId,
        list: kind => lists[kind](),
        call: (name, args, { meta, ...options } = {}) =>
            client.callTool({ name, arguments: args, _meta: { ...levelMeta, ...meta } }, options),
        raw: (method, params) => client.request({ method, params }, ANY),
        read: uri => client.readResource({ uri }, FRESH),
        prompt: (name, args) => client.getPrompt({ name, arguments: args }),
        complete: (ref, argument, context) =>
            client.complete({ ref, argument, ...(context && { context: { arguments: context } }) }),
        watch,
        setLevel: async level => {
            if (modern) levelMeta = { [LOG_LEVEL_META_KEY]: level };
            else await client.setLoggingLevel(level);
        },
        rootsChanged: () => client.sendRootsListChanged(),
        ping: () => client.ping(),
        terminate: async () => modern || transport.terminateSession?.(),
        close: async () => {
            await Promise.allSettled(subscriptions.map(subscription => subscription.close()));
            await client.close();
        }
    };
}, checks);
