// The checks of what has to come through as it was sent; same.py has the same under the same names. Their values are
// JSON texts, keys in the order in which they came, and run compares them with those of the same client directly.
import { Skip, explain, ofProtocol } from './harness.mjs';

/** What a list is called, by its method. */
const LISTS = {
    'tools/list': ['tools', 'tools'],
    'prompts/list': ['prompts', 'prompts'],
    'resources/list': ['resources', 'resources'],
    'resources/templates/list': ['resourceTemplates', 'resources']
};

/** Pages a server may have; one that names a next page for ever is not asked for ever. */
const PAGES_MAX = 100;

export function* sameChecks(profile) {
    yield ['server', checkServer];
    yield ['capabilities', checkCapabilities];
    for (const method of Object.keys(LISTS)) yield [`${method} as sent`, run => checkList(run, method)];
    for (const label of Object.keys(profile.steps ?? {})) yield [`result ${label}`, run => checkStep(run, label)];
}

/** What the server says of itself. A gateway in front of several servers says something of its own. */
async function checkServer(run) {
    const session = await run.open();
    const { serverInfo, instructions } = session;
    const value = paths({ serverInfo, instructions }, '');
    return { detail: `${value.length} facts`, value: run.settings.prefix ? undefined : value };
}

async function checkCapabilities(run) {
    const value = paths((await run.open()).capabilities, '');
    return { detail: `${value.length} capabilities`, value };
}

/** Each object and each value in it that is not false, with the way to it. */
function paths(value, at) {
    if (value === null || typeof value !== 'object') {
        return value === undefined || value === false ? [] : [`${at}=${JSON.stringify(value)}`];
    }
    const entries = Object.entries(value);
    const nested = entries.flatMap(([key, item]) => paths(item, at ? `${at}.${key}` : key));
    return at ? [at, ...nested] : nested;
}

async function checkList(run, method) {
    const session = await run.open();
    const [field, capability] = LISTS[method];
    if (!session.capabilities[capability]) throw new Skip(`the server has no ${capability}`);
    const items = [];
    let cursor;
    let pages = 0;
    do {
        const page = await session.raw(method, cursor === undefined ? {} : { cursor });
        items.push(...page[field]);
        cursor = page.nextCursor;
        pages++;
    } while (cursor !== undefined && pages < PAGES_MAX);
    const named = field === 'tools' || field === 'prompts';
    const { prefix } = run.settings;
    const ours = named ? items.filter(({ name }) => name.startsWith(prefix)) : items;
    const value = ours.map(item =>
        JSON.stringify(named ? { ...item, name: item.name.slice(prefix.length) } : item)
    );
    return { detail: `${value.length} on ${pages} pages`, value };
}

/** The whole result of one request, or the error; what may be another each time is masked. */
async function checkStep(run, label) {
    const session = await run.open();
    const { method, params, mask = [] } = run.want(session, 'steps')[label];
    const renamed = method === 'tools/call' || method === 'prompts/get';
    const text = await session
        .raw(method, renamed ? { ...params, name: run.name(params.name) } : params)
        .then(JSON.stringify, error => `error ${explain(ofProtocol(error))}`);
    const value = mask.reduce((masked, pattern) => masked.replaceAll(new RegExp(pattern, 'g'), '#'), text);
    return { detail: value.slice(0, 100), value: [value] };
}
