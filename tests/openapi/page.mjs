// Opens /swagger-ui in a headless Chromium as a person would: reads the list of operations, signs in with a token, and
// tries one. Spoken to over a pipe, so nothing listens.
//
//     page.mjs URL        the gateway; METAMCP_ADMIN_KEY: an administrator's key
//
// Prints what it looked at, and `N passed, M failed`.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PATIENCE_MS = 30_000;
const POLL_MS = 100;
const REMOVALS_MAX = 50;

const base = process.argv[2];
const key = process.env.METAMCP_ADMIN_KEY;
const browserPath = process.env.CHROMIUM ?? "chromium";
if (!base || !key) {
  console.error("usage: METAMCP_ADMIN_KEY=mcp_... page.mjs URL");
  process.exit(2);
}

let passed = 0;
let failed = 0;
function check(what, holds, seen) {
  if (holds) passed += 1;
  else failed += 1;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}${holds ? "" : `: ${JSON.stringify(seen)}`}`);
}

// Messages of the DevTools protocol, each ended by a zero byte, on the descriptors 3 and 4.
const profile = mkdtempSync(join(tmpdir(), "metamcp-page-"));
const browser = spawn(
  browserPath,
  ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--remote-debugging-pipe", `--user-data-dir=${profile}`, "about:blank"],
  { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], env: { ...process.env, TMPDIR: profile }, detached: true },
);
const waiting = new Map();
const requested = [];
const complaints = [];
let last = 0;
let buffer = "";
browser.stdio[4].setEncoding("utf8").on("data", (text) => {
  buffer += text;
  let end;
  while ((end = buffer.indexOf("\0")) >= 0) {
    hear(JSON.parse(buffer.slice(0, end)));
    buffer = buffer.slice(end + 1);
  }
});

function hear({ id, result, error, method, params }) {
  if (id !== undefined) {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    return error ? reject(new Error(error.message)) : resolve(result);
  }
  if (method === "Network.requestWillBeSent") requested.push(params.request.url);
  if (method === "Runtime.exceptionThrown") complaints.push(params.exceptionDetails.text);
  if (method === "Log.entryAdded" && params.entry.level === "error") complaints.push(params.entry.text);
}

let sessionId;
function send(method, params = {}) {
  last += 1;
  const id = last;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function evaluate(expression) {
  const { result, exceptionDetails } = await send("Runtime.evaluate", { expression, returnByValue: true });
  if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
  return result.value;
}

/** Waits until an expression is true, and says what it was at last. */
async function until(expression) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await evaluate(expression);
    if (value || Date.now() > deadline) return value;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

async function click(selector) {
  const found = await until(`!!document.querySelector(${JSON.stringify(selector)})`);
  if (!found) throw new Error(`${selector} is not on the page`);
  await evaluate(`document.querySelector(${JSON.stringify(selector)}).click()`);
}

async function look() {
  const document = await (await fetch(`${base}/api-docs/openapi.json`)).json();
  const operations = Object.values(document.paths).flatMap((item) => Object.values(item));
  const asked = await fetch(`${base}/api/v1/auth/token`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ api_key: key }),
  });
  const token = (await asked.json()).access_token;
  check("a token is given", typeof token === "string", asked.status);

  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  ({ sessionId } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Network", "Runtime", "Log", "Page"]) await send(`${domain}.enable`);
  await send("Page.navigate", { url: `${base}/swagger-ui` });
  await until(`document.querySelectorAll(".opblock").length >= ${operations.length}`);
  const shown = await evaluate(`[...document.querySelectorAll(".opblock")].map((block) => block.id)`);
  const wanted = operations.map(({ tags, operationId }) => `operations-${tags[0]}-${operationId}`);
  check("every operation is listed", shown.toSorted().join() === wanted.toSorted().join(), shown);

  await click(".auth-wrapper .authorize");
  await until(`!!document.querySelector("#auth-bearer-value")`);
  await evaluate(`document.querySelector("#auth-bearer-value").focus()`);
  await send("Input.insertText", { text: token });
  await click("form:has(#auth-bearer-value) button.authorize");
  const out = "[...document.querySelectorAll('.auth-container button')].filter((one) => one.textContent === 'Logout')";
  check("it takes the token", (await until(`${out}.length`)) === 1);
  await click(".auth-btn-wrapper .btn-done");

  await click("#operations-admin-listServers .opblock-summary-control");
  await click("#operations-admin-listServers .try-out__btn");
  await click("#operations-admin-listServers .execute");
  const status = ".live-responses-table tbody .response-col_status";
  await until(`!!document.querySelector(${JSON.stringify(status)})`);
  const answered = await evaluate(`document.querySelector(${JSON.stringify(status)})?.textContent`);
  check("trying one is answered with 200", answered?.startsWith("200"), answered);

  const foreign = requested.filter((url) => !url.startsWith(`${base}/`) && !/^(data|blob|about):/.test(url));
  check("nothing is fetched from elsewhere", foreign.length === 0 && requested.length > 3, foreign);
  check("the browser complains of nothing", complaints.length === 0, complaints);
}

async function removeProfile() {
  for (let attempt = 0; attempt < REMOVALS_MAX; attempt += 1) {
    try {
      return rmSync(profile, { recursive: true, force: true });
    } catch {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
  // Litter in the directory for temporary files says nothing about the page.
  console.log(`note: ${profile} could not be removed`);
}

try {
  await look();
} catch (error) {
  check("the page works", false, String(error));
} finally {
  if (browser.exitCode === null && browser.signalCode === null) {
    const gone = new Promise((resolve) => browser.once("exit", resolve));
    // Its whole group: its helpers outlive it for a moment, and write into the profile while they do.
    process.kill(-browser.pid, "SIGKILL");
    await gone;
  }
  await removeProfile();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
