// Calls a service by the types that openapi-typescript has made: once with success, once with an error by its code.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Problem = components["schemas"]["ProblemView"];

const client = createClient<paths>({ baseUrl: process.argv[2]! });
const body = { inputs: { text: "One flag rolls everything back, and one flag is enough." } };

const created = await client.POST("/programs", {
  body: {
    id: "typescript",
    program_type: "python",
    entrypoint: "examples.text:keywords",
    idempotent: false,
    tools: [],
    metrics: false,
    shadow: false,
    shared: false,
  },
});
if (created.error !== undefined) throw new Error(created.error.detail);
const revision: number = created.data.revision;

const ran = await client.POST("/programs/{program_id}/execute", {
  params: { path: { program_id: created.data.id } },
  body,
});
if (ran.error !== undefined) throw new Error(ran.error.detail);
if (typeof ran.data === "string") throw new Error("a stream, and nobody asked for one");
if (!("outputs" in ran.data)) throw new Error("a job, and nobody asked for one");
const version: "v1" | "v2" = ran.data.pool_version;

const refused = await client.POST("/programs/{program_id}/execute", {
  params: { path: { program_id: "nothing" } },
  body,
});
const problem: Problem | undefined = refused.error;
console.log(JSON.stringify({ revision, version, outputs: ran.data.outputs, code: problem?.code }));
