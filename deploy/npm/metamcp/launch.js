#!/usr/bin/env node
// Starts the program that this file is named after (metamcp, keyadm, metamcp-connect) from the package of this platform.
"use strict";

const { spawn } = require("node:child_process");
const path = require("node:path");

const packages = { "linux-x64": "metamcp-linux-x64" };
const platform = `${process.platform}-${process.arch}`;
const name = path.basename(__filename, ".js");

function fail(message) {
  console.error(`${name}: ${message}`);
  process.exit(69);
}

function find() {
  const wanted = packages[platform];
  if (!wanted) fail(`there is no program for ${platform}; metamcp needs Linux on x86-64 with glibc 2.34 or newer`);
  try {
    return path.join(path.dirname(require.resolve(`${wanted}/package.json`)), "bin", name);
  } catch {
    fail(`the package ${wanted} is missing; install metamcp again, without --omit=optional and not on musl`);
  }
}

const child = spawn(find(), process.argv.slice(2), { stdio: "inherit" });
child.on("error", (error) => fail(`cannot be started: ${error.message}`));
// SIGUSR2 stays away: after a hand-over, npx would take the end of the old process for the end of the gateway.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
// npx passes no signal on to what it runs: without this, a gateway would go on after its npx was stopped.
const parent = process.ppid;
const watch = () => process.ppid === parent || child.kill("SIGTERM");
if (process.env.npm_command === "exec") setInterval(watch, 1000).unref();
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
