// The checks of the two TypeScript clients; checks.py has the same under the same names.
import { once } from 'node:events';
import { POKE_MS, Skip, bearer, canonical, digest, expect, explain, pause, refused, textOf } from './harness.mjs';
import { sameChecks } from './same.mjs';

const LARGE_BYTES = 256 * 1024;
const CONCURRENT_CALLS = 20;

/** How long a server gets to ask for the roots by itself. */
const OWN_REQUEST_MS = 1000;

/** The checks of a profile: pairs of a name and what to do. */
export function* checks(profile) {
    yield ['open', checkOpen];
    yield* sameChecks(profile);
    yield ['tools/list', checkTools];
    yield ['tools/list schemas', checkSchemas];
    yield ['prompts/list', checkPrompts];
    yield ['resources/list', run => checkUris(run, 'resources', 'uri')];
    yield ['resources/templates/list', run => checkUris(run, 'templates', 'uriTemplate')];
    yield ['tools/call text', checkText];
    yield ['tools/call structured content', checkStructured];
    for (const kind of Object.keys(profile.contents ?? {})) {
        yield [`tools/call ${kind}`, run => checkContent(run, kind)];
    }
    yield ['tools/call x-mcp-header', checkArgumentHeaders];
    yield ['tools/call _meta', checkMeta];
    yield ['client capabilities', checkCapabilities];
    yield ['tools/call error result', checkToolError];
    yield ['tools/call unknown tool', checkUnknownTool];
    yield ['tools/call progress', checkProgress];
    yield ['tools/call over two connections', checkReconnection];
    yield ['tools/call 20 at once', checkConcurrent];
    yield ['tools/call large', checkLarge];
    yield ['tools/call big result', checkBig];
    yield ['elicitation form accept', run => checkElicitation(run, 'accept')];
    yield ['elicitation form decline', run => checkElicitation(run, 'decline')];
    yield ['elicitation url accept', run => checkUrlElicitation(run, 'accept')];
    yield ['elicitation url decline', run => checkUrlElicitation(run, 'decline')];
    yield ['elicitation url required', checkUrlRequired];
    yield ['sampling', checkSampling];
    yield ['sampling two clients', checkSamplingTwo];
    for (const kind of Object.keys(profile.inputs ?? {})) {
        yield [`input ${kind}`, run => checkInput(run, kind)];
    }
    yield ['roots/list', checkRoots];
    yield ['roots/list_changed', checkRootsChanged];
    yield ['resources/read', run => checkRead(run, 'resource')];
    yield ['resources/read template', run => checkRead(run, 'resource_template')];
    yield ['resources/read blob', run => checkRead(run, 'resource_blob')];
    yield ['resources/read unknown', checkUnknownResource];
    yield ['resources/subscribe', checkSubscription];
    yield ['prompts/get', checkPrompt];
    yield ['prompts/get embedded resource', checkPromptResource];
    yield ['prompts/get input', checkPromptInput];
    yield ['prompts/get unknown', checkUnknownPrompt];
    for (const kind of Object.keys(profile.completions ?? {})) {
        yield [`completion ${kind}`, run => checkCompletion(run, kind)];
    }
    yield ['logging', checkLogging];
    yield ['logging level', checkLogLevels];
    yield ['ping', checkPing];
    yield ['tools/list_changed', run => checkListChanged(run, 'tools')];
    yield ['prompts/list_changed', run => checkListChanged(run, 'prompts')];
    yield ['resources/list_changed', run => checkListChanged(run, 'resources')];
    // After that a gateway may be in doubt for a while whom a server asks that names no call.
    yield ['tools/call cancel', checkCancel];
    yield ['close', checkClose];
    yield ['second client', checkSecond];
}

async function checkOpen(run) {
    const session = await run.open();
    expect(
        session.version && session.capabilities?.tools,
        `no tools in ${JSON.stringify(session.capabilities)}`
    );
    return { detail: `${session.era} ${session.version} ${session.serverInfo?.name ?? 'no server name'}` };
}

/** The names of all tools but the one which a check adds and removes. */
async function steadyTools(run, session) {
    const toggled = run.settings.profile.list_changed?.tools?.toggles;
    const names = run.plain(await session.list('tools')).map(tool => tool.name);
    return names.filter(name => name !== toggled);
}

async function checkTools(run) {
    const session = await run.open();
    const names = await steadyTools(run, session);
    const expected = run.settings.profile.text?.tool;
    expect(!expected || names.includes(expected), `missing tool among ${names}`);
    expect(new Set(names).size === names.length, `a name twice among ${names}`);
    return { detail: `${names.length} tools`, value: names };
}

async function checkSchemas(run) {
    const session = await run.open();
    const steady = await steadyTools(run, session);
    const tools = run.plain(await session.list('tools')).filter(tool => steady.includes(tool.name));
    const value = tools.map(tool => {
        const { name, inputSchema, outputSchema, annotations } = tool;
        return `${name} ${digest({ inputSchema, outputSchema, annotations })}`;
    });
    return { detail: `${tools.length} schemas`, value };
}

async function checkPrompts(run) {
    const session = await run.open();
    const expected = run.want(session, 'prompt').name;
    const names = run.plain(await session.list('prompts')).map(prompt => prompt.name);
    expect(names.includes(expected), `missing prompt among ${names}`);
    return { detail: `${names.length} prompts`, value: names };
}

async function checkUris(run, kind, field) {
    const session = await run.open();
    run.want(session, kind === 'templates' ? 'resource_template' : 'resource');
    const uris = (await session.list(kind)).map(item => item[field]).sort();
    expect(uris.length > 0, `no ${kind}`);
    return { detail: `${uris.length} ${kind}`, value: uris };
}

async function checkText(run) {
    const session = await run.open();
    const wanted = run.want(session, 'text');
    const text = textOf(await run.call(session, wanted));
    expect(text.includes(wanted.contains), text);
    return { detail: text };
}

async function checkStructured(run) {
    const session = await run.open();
    const wanted = run.want(session, 'structured');
    await session.list('tools');
    const { structuredContent } = await run.call(session, wanted);
    expect(canonical(structuredContent) === canonical(wanted.equals), canonical(structuredContent));
    return { detail: canonical(structuredContent) };
}

async function checkContent(run, kind) {
    const session = await run.open();
    const wanted = run.want(session, 'contents')[kind];
    const { content } = await run.call(session, wanted);
    const types = content.map(block => block.type);
    expect(canonical(types) === canonical(wanted.types), `types ${types}`);
    const media = content.filter(block => block.data).map(block => `${block.mimeType} ${digest(block.data)}`);
    const uris = content.map(block => block.uri ?? block.resource?.uri).filter(Boolean);
    return { detail: `${types}`, value: [...media, ...uris] };
}

/** Some of these arguments travel as HTTP headers too in the modern era. */
async function checkArgumentHeaders(run) {
    const session = await run.open();
    const wanted = run.want(session, 'argument_headers');
    await session.list('tools');
    const { structuredContent } = await run.call(session, wanted);
    expect(canonical(structuredContent) === canonical(wanted.arguments), canonical(structuredContent));
    return { detail: canonical(structuredContent) };
}

async function checkMeta(run) {
    const session = await run.open();
    const meta = { 'example.com/note': { kept: ['as', 'sent'] } };
    const { structuredContent } = await run.call(session, run.want(session, 'whoami'), { meta });
    const found = structuredContent.meta?.['example.com/note'];
    expect(
        canonical(found) === canonical(meta['example.com/note']),
        `the server saw ${JSON.stringify(found)}`
    );
    return { detail: 'unknown keys reach the server' };
}

async function checkCapabilities(run) {
    const session = await run.open();
    const { structuredContent } = await run.call(session, run.want(session, 'whoami'));
    const seen = Object.keys(structuredContent.clientCapabilities).sort();
    return { detail: `${seen}`, value: seen };
}

async function checkToolError(run) {
    const session = await run.open();
    const result = await run.call(session, run.want(session, 'error'));
    expect(result.isError === true, `isError is ${result.isError}`);
    return { detail: textOf(result).slice(0, 100) };
}

async function checkUnknownTool(run) {
    const session = await run.open();
    const error = await refused(session.call(run.name('no_such_tool'), {}), 'an unknown tool');
    return run.refusal(error);
}

async function checkProgress(run) {
    const session = await run.open();
    const wanted = run.want(session, 'progress');
    const steps = [];
    await run.call(session, wanted, { onprogress: ({ progress }) => steps.push(progress) });
    expect(canonical(steps) === canonical(wanted.steps), `progress ${steps}`);
    return { detail: `${steps}` };
}

async function checkCancel(run) {
    const session = await run.open();
    const { cancelled } = run.settings.profile;
    const slow = structuredClone(run.want(session, 'slow'));
    const mark = `late-${Math.random()}`;
    if (cancelled) slow.arguments[cancelled.argument] = mark;
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), 700);
    const started = Date.now();
    try {
        const call = run.call(session, slow, { signal: abort.signal });
        const ended = await call.then(textOf, () => undefined);
        expect(ended === undefined, `a cancelled call was answered by ${ended}`);
    } finally {
        clearTimeout(timer);
    }
    const elapsed = Date.now() - started;
    expect(elapsed > 600 && elapsed < 5000, `the call ended after ${elapsed} ms, not when it was cancelled`);
    const text = textOf(await run.canary(session, 'after cancel'));
    expect(text.includes('after cancel'), text);
    if (!cancelled) return { detail: 'the session works after it' };
    const isGivenUp = async () => {
        const { structuredContent } = await run.call(session, cancelled);
        return structuredContent[cancelled.list].includes(mark);
    };
    while (!(await isGivenUp())) await pause(POKE_MS);
    return { detail: 'the server stopped; the session works after it' };
}

/** The server ends the connection before the answer; the client has to come back for it. */
async function checkReconnection(run) {
    const session = await run.open();
    const wanted = run.want(session, 'reconnection');
    const text = textOf(await run.call(session, wanted));
    expect(text.includes(wanted.contains), text);
    return { detail: text };
}

async function checkConcurrent(run) {
    const session = await run.open();
    const canaries = Array.from({ length: CONCURRENT_CALLS }, (_, n) => `canary-${n}-${Math.random()};`);
    const texts = (await Promise.all(canaries.map(canary => run.canary(session, canary)))).map(textOf);
    const wrong = canaries.filter((canary, n) => !texts[n].includes(canary));
    expect(wrong.length === 0, `${wrong.length} calls got another's answer`);
    return { detail: `${texts.length} answers` };
}

async function checkLarge(run) {
    const session = await run.open();
    const pattern = 'line "quoted" \\ back\n\ttab, snow ☃ and 日本語; ';
    const large = pattern.repeat(Math.ceil(LARGE_BYTES / Buffer.byteLength(pattern)));
    const text = textOf(await run.canary(session, large));
    expect(text.includes(large), `${text.length} characters came back of ${large.length}`);
    return { detail: `${Buffer.byteLength(text)} bytes` };
}

async function checkBig(run) {
    const session = await run.open();
    const wanted = run.want(session, 'big');
    const { length } = textOf(await run.call(session, wanted));
    expect(length === wanted.characters, `${length} characters`);
    return { detail: `${length} characters` };
}

async function checkElicitation(run, action) {
    const asked = [];
    const elicit = params => {
        asked.push(params);
        return action === 'accept' ? { action, content: answer } : { action };
    };
    const session = await run.open({ elicit });
    const wanted = run.want(session, 'elicitation');
    const answer = wanted.content;
    const text = textOf(await run.call(session, wanted));
    expect(asked.length === 1, `asked ${asked.length} times`);
    expect(text.includes(action === 'accept' ? wanted.accepted : wanted.declined), text);
    return { detail: asked[0].message, value: [digest(asked[0].requestedSchema)] };
}

async function checkUrlElicitation(run, action) {
    const asked = [];
    const elicit = params => {
        asked.push(params);
        return { action };
    };
    const session = await run.open({ elicit });
    const wanted = run.want(session, 'elicitation_url');
    const text = textOf(await run.call(session, wanted));
    expect(asked.length === 1, `asked ${asked.length} times`);
    expect(asked[0].mode === 'url' && asked[0].url === wanted.url, JSON.stringify(asked[0]));
    expect(text.includes(action === 'accept' ? wanted.accepted : wanted.declined), text);
    return { detail: `${asked[0].url}` };
}

async function checkUrlRequired(run) {
    const session = await run.open();
    const error = await refused(run.call(session, run.want(session, 'elicitation_required')), 'the call');
    expect(error.code === -32042, explain(error));
    expect(error.data?.elicitations?.[0]?.mode === 'url', `data ${JSON.stringify(error.data)}`);
    return { detail: explain(error) };
}

const sampled = text => ({ role: 'assistant', model: 'test-model', content: { type: 'text', text } });

async function checkSampling(run) {
    const asked = [];
    const sample = params => {
        asked.push(params);
        return sampled('sampled-answer');
    };
    const session = await run.open({ sample });
    const text = textOf(await run.call(session, run.want(session, 'sampling')));
    expect(asked.length === 1, `asked ${asked.length} times`);
    expect(text.includes('sampled-answer'), text);
    return { detail: `${asked[0].messages.length} message, ${asked[0].maxTokens} tokens` };
}

async function checkSamplingTwo(run) {
    run.needs('sampling');
    const names = ['first-client', 'second-client'];
    const texts = await Promise.all(
        names.map(async name => {
            const session = await run.open({ sample: () => sampled(name) }, { own: true });
            return textOf(await run.call(session, run.want(session, 'sampling')));
        })
    );
    expect(
        names.every((name, n) => texts[n].includes(name)),
        texts.join(' | ')
    );
    return { detail: 'each client was asked for its own call' };
}

const FORM = { name: 'Ada', color: 'red', ok: true, context: 'sunny' };

/** Answers whatever a server may ask for. */
const everyAnswer = {
    elicit: ({ requestedSchema }) => {
        const asked = Object.keys(requestedSchema.properties).filter(key => key in FORM);
        return { action: 'accept', content: Object.fromEntries(asked.map(key => [key, FORM[key]])) };
    },
    sample: () => sampled('sampled-answer'),
    roots: () => [{ uri: 'file:///home/user/first' }]
};

async function checkInput(run, kind) {
    const session = await run.open(everyAnswer);
    const wanted = run.want(session, 'inputs')[kind];
    const text = textOf(await run.call(session, wanted));
    expect(text.includes(wanted.contains), text);
    return { detail: text };
}

async function checkPromptInput(run) {
    const session = await run.open(everyAnswer);
    const wanted = run.want(session, 'prompt_input');
    const { messages } = await session.prompt(run.name(wanted.name), {});
    const text = messages.map(message => message.content.text).join('\n');
    expect(text.includes(wanted.contains), text);
    return { detail: text };
}

/** A client with these roots, which notes when it is asked for them. */
function rootsOf(current) {
    const state = { current, asked: 0 };
    state.answer = () => {
        state.asked++;
        return [{ uri: state.current }];
    };
    return state;
}

/**
 * Calls the roots tool until it names the current root. server-everything asks for the roots by itself soon
 * after the session began, and where its stream was not open yet when the tool asked, that call would never
 * end: so first wait.
 */
async function untilRoots(run, session, state) {
    for (const end = Date.now() + OWN_REQUEST_MS; state.asked === 0 && Date.now() < end;) await pause(50);
    while (!textOf(await run.call(session, run.want(session, 'roots'))).includes(state.current))
        await pause(POKE_MS);
}

async function checkRoots(run) {
    run.needs('roots');
    const state = rootsOf('file:///home/user/first');
    const session = await run.open({ roots: state.answer }, { own: true, alone: true });
    await untilRoots(run, session, state);
    return { detail: `asked ${state.asked} times` };
}

async function checkRootsChanged(run) {
    run.needs('roots');
    const state = rootsOf('file:///home/user/first');
    const session = await run.open({ roots: state.answer }, { own: true, alone: true });
    run.legacyOnly(session);
    await untilRoots(run, session, state);
    state.current = 'file:///home/user/second';
    await session.rootsChanged();
    await untilRoots(run, session, state);
    return { detail: 'the server asked again' };
}

async function checkRead(run, key) {
    const session = await run.open();
    const wanted = run.want(session, key);
    const { contents } = await session.read(wanted.uri);
    const [{ uri, text, blob, mimeType }] = contents;
    expect(uri === wanted.uri, `uri ${uri}`);
    const body = text ?? Buffer.from(blob, 'base64').toString();
    expect(body.length > 0 && body.includes(wanted.contains ?? ''), body.slice(0, 200));
    return { detail: `${mimeType}, ${body.length} characters` };
}

async function checkUnknownResource(run) {
    const session = await run.open();
    const error = await refused(
        session.read(run.want(session, 'resource_unknown').uri),
        'an unknown resource'
    );
    return run.refusal(error);
}

async function checkSubscription(run) {
    const session = await run.open();
    const { uri, trigger } = run.want(session, 'subscription');
    await session.watch({ uri });
    const updated = await run.until(session, 'updated', () => run.call(session, trigger));
    expect(updated === uri, `update of ${updated}`);
    return { detail: updated };
}

async function checkPrompt(run) {
    const session = await run.open();
    const wanted = run.want(session, 'prompt');
    const { messages } = await session.prompt(run.name(wanted.name), wanted.arguments);
    const text = messages.map(message => message.content.text).join('\n');
    expect(text.includes(wanted.contains), text);
    return { detail: text };
}

async function checkPromptResource(run) {
    const session = await run.open();
    const wanted = run.want(session, 'prompt_resource');
    const { messages } = await session.prompt(run.name(wanted.name), wanted.arguments);
    const types = messages.map(message => message.content.type);
    expect(canonical(types) === canonical(wanted.types), `types ${types}`);
    const uris = messages.map(message => message.content.resource?.uri).filter(Boolean);
    return { detail: `${types}`, value: uris };
}

async function checkUnknownPrompt(run) {
    const session = await run.open();
    const error = await refused(session.prompt(run.name('no_such_prompt'), {}), 'an unknown prompt');
    return run.refusal(error);
}

async function checkCompletion(run, kind) {
    const session = await run.open();
    const wanted = run.want(session, 'completions')[kind];
    const ref = wanted.prompt
        ? { type: 'ref/prompt', name: run.name(wanted.prompt) }
        : { type: 'ref/resource', uri: wanted.uri };
    const { completion } = await session.complete(ref, wanted.argument, wanted.context);
    expect(Array.isArray(completion.values), JSON.stringify(completion));
    expect(
        !wanted.values || canonical(completion.values) === canonical(wanted.values),
        `${completion.values}`
    );
    expect(completion.values.length === (wanted.count ?? wanted.values.length), `${completion.values}`);
    return { detail: `${completion.values.length} values`, value: completion.values };
}

async function checkLogging(run) {
    const session = await run.open();
    const wanted = run.want(session, 'logging');
    await session.setLevel('debug');
    const { level } = await run.until(session, 'log', () => run.call(session, wanted));
    return { detail: `level ${level}` };
}

/** The server writes one message of each level; those below the wanted one must not come. */
async function checkLogLevels(run) {
    const session = await run.open();
    const wanted = run.want(session, 'log_levels');
    const levels = [];
    session.events.on('log', ({ level }) => levels.push(level));
    await session.setLevel(wanted.level);
    await run.call(session, wanted);
    await pause(POKE_MS);
    expect(canonical(levels) === canonical(wanted.levels), `levels ${levels}`);
    return { detail: `${levels}` };
}

async function checkPing(run) {
    const session = await run.open();
    run.legacyOnly(session);
    await session.ping();
    return { detail: 'answered' };
}

async function checkListChanged(run, list) {
    const session = await run.open();
    const { tool, arguments: args, toggles } = run.want(session, 'list_changed')[list] ?? {};
    if (!tool) throw new Skip(`the server profile has nothing which changes the ${list}`);
    await session.watch({ list });
    await run.until(session, list, n => {
        const numbered = JSON.parse(JSON.stringify(args ?? {}).replaceAll('{n}', n));
        return run.call(session, { tool, arguments: numbered });
    });
    if (!toggles) return { detail: 'notified' };
    const there = async () => run.plain(await session.list(list)).some(item => item.name === toggles);
    for (let changed = false; !changed;) {
        // Two that change it in step, each upon the other's notification, undo what the other did.
        await pause(POKE_MS * Math.random());
        const before = await there();
        const notified = once(session.events, list);
        await run.call(session, { tool });
        await Promise.race([notified, pause(POKE_MS)]);
        changed = (await there()) !== before;
    }
    return { detail: 'notified, and the list changed' };
}

async function checkClose(run) {
    if (run.settings.program) throw new Skip('a program has no session to end');
    const session = await run.open({}, { own: true });
    await session.list('tools');
    const id = session.sessionId();
    await session.terminate();
    if (!id) return { detail: 'no session id was given' };
    const { status } = await fetch(run.settings.url, {
        method: 'POST',
        headers: {
            ...bearer(run.settings.keys[0]),
            'content-type': 'application/json',
            accept: 'application/json, text/event-stream',
            'mcp-session-id': id,
            'mcp-protocol-version': session.version
        },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'ping' })
    });
    expect(status >= 400 && status < 500, `the ended session was answered by ${status}`);
    return { detail: `the ended session is answered by ${status}` };
}

async function checkSecond(run) {
    run.needs('canary');
    const first = await run.open({}, { own: true });
    await run.canary(first, 'first');
    await first.terminate();
    await first.close();
    const second = await run.open({}, { own: true });
    const text = textOf(await run.canary(second, 'second'));
    expect(text.includes('second'), text);
    return { detail: text };
}
