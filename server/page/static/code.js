/** A request as commands that can be copied. */

/** Return the request for a shell. */
export function curl(url, request, keyed) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = keyed ? ' \\\n  -H "authorization: Bearer $QCONF_API_KEY"' : "";
  return `curl -s ${quoted(`${url}compare`)} -H 'content-type: application/json'${key} \\\n  -d ${quoted(JSON.stringify(request))}`;
}

/** Return the request in Python; the client reads a key from QCONF_API_KEY. */
export function python(url, request) {
  const fields = Object.entries(request).map(([name, value]) => `        ${name}=${literal(value)},\n`).join("");
  const server = url.replace(/\/$/, "");
  return `from client import Client\n\nwith Client(${literal(server)}) as qconf:\n    reply = qconf.compare(\n${fields}    )\n    print(reply.summary)\n`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
