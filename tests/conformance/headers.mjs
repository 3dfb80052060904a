// Adds headers to every request that the suite sends to the server under test, since its command line cannot.
// Loaded with `node --import`; CONFORMANCE_HEADERS is a JSON object, CONFORMANCE_ORIGIN where they may go.
// Node's own fetch and the undici package both announce each request on this channel before it is sent:
// https://nodejs.org/api/diagnostics_channel.html, https://undici.nodejs.org/#/docs/api/DiagnosticsChannel
import diagnostics from 'node:diagnostics_channel';

const headers = Object.entries(JSON.parse(process.env.CONFORMANCE_HEADERS ?? '{}'));
const origin = process.env.CONFORMANCE_ORIGIN;

diagnostics.channel('undici:request:create').subscribe(({ request }) => {
  if (String(request.origin) !== origin) return;
  for (const [name, value] of headers) request.addHeader(name, value);
});
