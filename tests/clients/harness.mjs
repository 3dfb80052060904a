// What the two TypeScript clients share: the command line, the sessions of a check, the report.
//
// A client program calls `main(connect, checks)`. `connect(options)` opens a session with its SDK and returns
// an object with the methods which the checks use; `options` = {url, program, sse, headers, flags, answers, events}:
// `program` is what the SDK has to start where there is no URL, `sse` says that the URL is of the transport of
// 2024-11-05, `answers` holds the replies to the server's requests (elicit, sample, roots), `events` (an EventEmitter)
// is told 'log', 'updated', 'tools', 'prompts', 'resources' when such a notification arrives.
// One process tries one target (`--target`) after the other. The checks of a target share a session, and so a program,
// but for those that need their own; after a check that failed they get another, and it is tried once more there: some
// SDKs lose a notification now and then that comes just before the answer.
import { createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// The report goes to stdout, and there some SDKs say what they find odd, such as a list that changes while they close.
console.debug = console.error;

const CHECK_MS = 20_000;

/** The same for the first, which a server is started for, or several behind a gateway. */
const OPEN_MS = 60_000;

/** What the SDKs give a program to end, and then some. */
const CLOSE_MS = 5000;
export const POKE_MS = 400;

const installed = createRequire(new URL('../../target/clients/node/package.json', import.meta.url));

/** Imports a module from where `tests/clients/install` put the packages. */
export const load = specifier => import(pathToFileURL(installed.resolve(specifier)));

export class Skip extends Error {}

/** The command line: what all targets share, and the targets. */
function options(argv) {
    const shared = { flags: {} };
    const targets = [];
    const places = {};
    let profile;
    for (let at = 0; at < argv.length; at++) {
        const word = argv[at];
        if (word === '--target') targets.push(JSON.parse(argv[++at]));
        else if (word === '--place') {
            const [name, ...value] = argv[++at].split('=');
            places[name] = value.join('=');
        } else if (word === '--profile') profile = argv[++at];
        else shared.flags[word.slice(2)] = argv[++at];
    }
    let text = readFileSync(new URL('profiles.json', import.meta.url), 'utf8');
    for (const [name, value] of Object.entries(places)) text = text.replaceAll(`{${name}}`, value);
    const profiles = JSON.parse(text);
    if (targets.length === 0 || !profiles[profile]) {
        const known = Object.keys(profiles).join('|');
        console.error(
            `usage: --target JSON... --profile ${known} [--era auto|legacy|modern] [--place NAME=VALUE]...`
        );
        process.exit(64);
    }
    return targets.map(target => ({ prefix: '', keys: [], ...shared, ...target, profile: profiles[profile] }));
}

/** Runs the checks against each target, prints a line for each and ends the process. */
export async function main(connect, checks) {
    let failed = false;
    for (const [target, settings] of options(process.argv.slice(2)).entries()) {
        for await (const line of tried(settings, connect, checks)) {
            failed ||= !line.ok && !line.skip;
            console.log(JSON.stringify({ target, ...line }));
        }
    }
    process.exit(failed ? 1 : 0);
}

/** The checks in sessions which `connect` opens. */
async function* tried(settings, connect, checks) {
    let opened = true;
    for (const [name, body] of checks(settings.profile)) {
        const once = () => new Run(settings, connect).check(name, body);
        let line = opened ? await once() : { check: name, ok: false, detail: 'not tried: no session' };
        if (opened && !line.ok && !line.skip) {
            await closeAll([settings.shared]);
            settings.shared = undefined;
            line = { ...(await once()), first: line.detail };
        }
        if (name === 'open') opened = line.ok;
        yield line;
    }
    await closeAll([settings.shared]);
}

async function closeAll(sessions) {
    const closing = Promise.allSettled(sessions.map(session => session?.close()));
    await Promise.race([closing, pause(CLOSE_MS)]);
}

/** One check: the sessions it opened, and what the profile says for the era they speak. */
class Run {
    constructor(settings, connect) {
        this.settings = settings;
        this.connect = connect;
        this.sessions = [];
        this.opened = 0;
    }

    async check(name, body) {
        const allowed = name === 'open' ? OPEN_MS : CHECK_MS;
        let timer;
        const late = new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error(`no result after ${allowed} ms`)), allowed);
        });
        const started = Date.now();
        try {
            const { detail, value } = await Promise.race([body(this), late]);
            return { check: name, ok: true, detail, value, ms: Date.now() - started };
        } catch (error) {
            if (error instanceof Skip) return { check: name, ok: false, skip: true, detail: error.message };
            return { check: name, ok: false, detail: explain(error), ms: Date.now() - started };
        } finally {
            clearTimeout(timer);
            await closeAll(this.sessions);
        }
    }

    /** A session which answers the server so: the shared one, unless the check needs its own. */
    async open(answers = {}, { own = false, alone = false } = {}) {
        const { settings } = this;
        if (own) {
            const session = await this.connected(answers, alone);
            this.sessions.push(session);
            return session;
        }
        settings.shared ??= await this.connected({});
        const { shared } = settings;
        for (const name of Object.keys(shared.answers)) delete shared.answers[name];
        Object.assign(shared.answers, answers);
        shared.events.removeAllListeners();
        return shared;
    }

    /** `alone`: with the last key, which no other check uses. */
    async connected(answers, alone = false) {
        const events = new EventEmitter();
        const { url, program, sse, keys, flags } = this.settings;
        const shared = Math.max(keys.length - 1, 1);
        const headers = bearer(alone ? keys.at(-1) : keys[this.opened++ % shared]);
        const to = { url: url && new URL(url), program, sse, headers, flags };
        const session = await this.connect({ ...to, answers, events });
        return Object.assign(session, { answers, events });
    }

    /** What the profile has under `key` for this session's era; skips the check where it has nothing. */
    want(session, key) {
        const { profile } = this.settings;
        const override = (session.era === 'modern' && profile.modern) || {};
        const found = key in override ? override[key] : profile[key];
        if (!found) throw new Skip(`the server profile has no ${key} (${session.era})`);
        return found;
    }

    /** Skips the check where the profile has nothing under `key` in any era, before there is a session. */
    needs(key) {
        if (!this.settings.profile[key]) throw new Skip(`the server profile has no ${key}`);
    }

    /** A refusal: the server's own, which has to come through, except where a gateway answers in its place. */
    refusal(error) {
        return { detail: explain(error), value: this.settings.prefix ? undefined : [explain(error)] };
    }

    legacyOnly(session) {
        if (session.era !== 'legacy') throw new Skip('not part of 2026-07-28');
    }

    name(plain) {
        return this.settings.prefix + plain;
    }

    /** The names which begin with the prefix, without it. */
    plain(items) {
        const { prefix } = this.settings;
        const ours = items.filter(item => item.name.startsWith(prefix));
        return ours.map(item => ({ ...item, name: item.name.slice(prefix.length) })).sort(byName);
    }

    call(session, { tool, arguments: args = {} }, options = {}) {
        return session.call(this.name(tool), args, options);
    }

    canary(session, text) {
        const { tool, argument, arguments: args } = this.want(session, 'canary');
        return this.call(session, { tool, arguments: { ...args, [argument]: text } });
    }

    /** Calls `act(n)` until `event` arrives: the server may have no stream to send it on at first. */
    async until(session, event, act) {
        const arrived = once(session.events, event).then(([payload]) => payload);
        for (let n = 0; ; n++) {
            await act(n);
            const payload = await Promise.race([arrived.then(it => ({ it })), pause(POKE_MS)]);
            if (payload) return payload.it;
        }
    }
}

export const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
export const bearer = key => (key ? { Authorization: `Bearer ${key}` } : {});
const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
export const textOf = result => (result.content ?? []).map(block => block.text ?? '').join('\n');
export const explain = error =>
    `${error?.code ?? error?.name ?? ''} ${error?.message ?? error}`.trim().slice(0, 300);
export const digest = value => createHash('sha256').update(canonical(value)).digest('hex').slice(0, 16);

export function canonical(value) {
    if (Array.isArray(value)) return `[${value.map(canonical)}]`;
    if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
    const keys = Object.keys(value)
        .filter(key => value[key] !== undefined)
        .sort();
    return `{${keys.map(key => `${JSON.stringify(key)}:${canonical(value[key])}`)}}`;
}

export function expect(holds, detail) {
    if (!holds) throw new Error(detail);
}

/** The JSON-RPC error that a request ended with; what is none is thrown on. */
export function ofProtocol(error) {
    // 0 is a code that servers of the Python SDK give.
    if (error.code <= 0) return error;
    // The Modern era's 404 with an error of the protocol in it: the TypeScript SDK shows the body as it stands.
    const body = /{"jsonrpc".*}$/.exec(error.message);
    if (!body) throw error;
    const { code, message } = JSON.parse(body[0]).error;
    return Object.assign(new Error(message), { code });
}

/** The JSON-RPC error, or the error result, by which the server refused. */
export async function refused(promise, what) {
    let result;
    try {
        result = await promise;
    } catch (error) {
        return ofProtocol(error);
    }
    expect(result.isError, `${what} was answered by ${JSON.stringify(result).slice(0, 200)}`);
    return new Error(textOf(result));
}
