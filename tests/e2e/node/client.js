// What a client outside of Python does: store three memories, recall one, and meet an error that says what is wrong.
//
//     node client.js HOST:PORT SPACE
//
// Prints one JSON object: {stored: [names], hits: [{name, content, score}], error: {code, message, reason, domain, metadata}}.
// The stubs under ./gen are generated from the protos by buf.gen.yaml; nothing in them is written by hand.
import { randomUUID } from "node:crypto";
import { credentials, Metadata, status } from "@grpc/grpc-js";

import { ErrorInfo } from "./gen/google/rpc/error_details.ts";
import { Status } from "./gen/google/rpc/status.ts";
import { CreateMemoryRequest, MemoryServiceClient, RecallMemoriesRequest } from "./gen/mnemocore/memory/v1/memory_service.ts";
import { CreateSpaceRequest, SpaceServiceClient } from "./gen/mnemocore/memory/v1/space_service.ts";

const DEADLINE_SECONDS = 10;
const SAID = [
  ["Alice", "I moved to Lisbon in March."],
  ["Bob", "My sister breeds alpacas on a farm near Cusco."],
  ["Alice", "The dentist has put my appointment off to Friday."],
];

const [address, space] = process.argv.slice(2);
const spaces = new SpaceServiceClient(address, credentials.createInsecure());
const memories = new MemoryServiceClient(address, credentials.createInsecure());

const metadata = new Metadata();
if (process.env.MNEMO_API_KEY) metadata.set("authorization", `Bearer ${process.env.MNEMO_API_KEY}`);

/** The answer of one call, which has a deadline as every call must. Rejects with grpc-js's ServiceError. */
function call(client, method, request) {
  const options = { deadline: Date.now() + DEADLINE_SECONDS * 1000 };
  return new Promise((resolve, reject) => {
    client[method](request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

/** What the server says of an error: the status, and the ErrorInfo out of its details. */
function explained(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  const details = Status.decode(packed).details;
  const info = details.find((detail) => detail.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  const { reason, domain, metadata: facts } = ErrorInfo.decode(info.value);
  return { code: status[error.code], message: error.details, reason, domain, metadata: facts };
}

await call(spaces, "createSpace", CreateSpaceRequest.fromPartial({ spaceId: space, requestId: randomUUID() }));

const stored = [];
let writtenAt;
for (const [actor, content] of SAID) {
  const request = { parent: `spaces/${space}`, memory: { content, actor }, requestId: randomUUID() };
  const answer = await call(memories, "createMemory", CreateMemoryRequest.fromPartial(request));
  stored.push(answer.memory.name);
  writtenAt = answer.writtenAt;
}

function recall(request) {
  return call(memories, "recallMemories", RecallMemoriesRequest.fromPartial({ limit: 3, ...request }));
}

const consistency = { atLeastAsFresh: writtenAt };
const found = await recall({ parent: `spaces/${space}`, query: "Where does Alice live now?", consistency });
const hits = found.results.map(({ memory, score }) => ({ name: memory.name, content: memory.content, score }));

const error = await recall({ parent: "spaces/nowhere", query: "Is anybody here?" }).then(() => null, explained);

console.log(JSON.stringify({ stored, hits, error }));
spaces.close();
memories.close();
