// The life of a pod, as a program sees it: applied, watched until it runs, changed, looked into, and deleted.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { ChannelCredentials, ServiceError, credentials, status } from "@grpc/grpc-js";

import { ObjectMeta, WatchEventType } from "../generated/clone8s/v1/meta";
import { Container, Pod, PodSpec } from "../generated/clone8s/v1/pod";
import {
  ApplyPodRequest,
  ApplyPodResponse,
  DeletePodRequest,
  GetPodLogsRequest,
  GetPodLogsResponse,
  PodServiceClient,
  UpdatePodRequest,
  UpdatePodResponse,
  WatchPodsRequest,
  WatchPodsResponse,
} from "../generated/clone8s/v1/pod_service";
import { ExecPodRequest, ExecPodResponse } from "../generated/clone8s/v1/pod_streams";

// Milliseconds for all that is waited for.
const PATIENCE = 60_000;

/** A client of the API that the environment names, as c8s makes it. */
function connect(): PodServiceClient {
  const server = process.env.CLONE8S_SERVER ?? "unix:///run/clone8s/apiserver.sock";
  if (server.startsWith("unix:")) {
    return new PodServiceClient(server, credentials.createInsecure());
  }
  const read = (variable: string): Buffer => readFileSync(process.env[variable] ?? "");
  const tls: ChannelCredentials = credentials.createSsl(
    read("CLONE8S_CA"),
    read("CLONE8S_KEY"),
    read("CLONE8S_CERT"),
  );
  return new PodServiceClient(server.replace(/^https:\/\//, ""), tls);
}

/** One call with one answer. */
function answer<T>(call: (done: (error: ServiceError | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => call((error, value) => (error ? reject(error) : resolve(value))));
}

/** Makes the pod have these fields, and takes over those that are another manager's. */
async function apply(pods: PodServiceClient, pod: Pod, fieldManager: string): Promise<ObjectMeta> {
  const request = ApplyPodRequest.fromPartial({ pod, fieldManager });
  const send = () => answer<ApplyPodResponse>((done) => pods.applyPod(request, done));
  const applied = await send().catch((error: ServiceError) => {
    if (error.code !== status.FAILED_PRECONDITION) {
      throw error;
    }
    console.log(`conflict ${error.details}`);
    // The other choice is to leave the field out, and so to the other manager.
    request.force = true;
    return send();
  });
  return ObjectMeta.fromPartial(applied.pod?.metadata ?? {});
}

/** Changes of a pod after a revision; where the API no longer has them all, the pod as it is, and changes from there. */
async function* watch(pods: PodServiceClient, meta: ObjectMeta, revision: bigint): AsyncGenerator<WatchPodsResponse> {
  const request = WatchPodsRequest.fromPartial({
    namespace: meta.namespace,
    fieldSelector: `metadata.name=${meta.name}`,
    resourceVersion: revision,
  });
  const events = () =>
    pods.watchPods(request, { deadline: Date.now() + PATIENCE }) as AsyncIterable<WatchPodsResponse>;
  try {
    yield* events();
  } catch (error) {
    if ((error as ServiceError).code !== status.OUT_OF_RANGE) {
      throw error;
    }
    console.log("watching anew");
    request.resourceVersion = 0n;
    request.sendInitialState = true;
    yield* events();
  }
}

/** What a command in the pod's container prints. */
async function runIn(pods: PodServiceClient, meta: ObjectMeta, ...command: string[]): Promise<string> {
  const call = pods.execPod({ deadline: Date.now() + PATIENCE });
  call.write(ExecPodRequest.fromPartial({ start: { namespace: meta.namespace, name: meta.name, command } }));
  call.end();
  const printed: Buffer[] = [];
  for await (const part of call as AsyncIterable<ExecPodResponse>) {
    printed.push(Buffer.from(part.stdout ?? []));
  }
  return Buffer.concat(printed).toString().trim();
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      name: { type: "string", default: "hello-typescript" },
      image: { type: "string", default: "clone8s.local/hello:1" },
      // Watch from this revision; without it, from that of the pod's creation.
      since: { type: "string" },
    },
  });
  const pods = connect();
  const container = Container.fromPartial({
    name: "main",
    image: values.image,
    command: ["/bin/busybox", "sh", "-c", "echo hello from typescript; exec /bin/busybox sleep 1000"],
  });
  const pod = Pod.fromPartial({
    metadata: { name: values.name, labels: { stage: "test" } },
    spec: PodSpec.fromPartial({ containers: [container], terminationGracePeriodSeconds: 1 }),
  });
  const created = await apply(pods, pod, "example");
  const { namespace, name, uid, resourceVersion } = created;
  console.log(`created ${namespace}/${name}`);

  // Another program that has its say about the same pod, and about nothing else of it.
  const promotion = Pod.fromPartial({ metadata: { name, labels: { stage: "production" } } });
  const promoted = await apply(pods, promotion, "promoter");
  console.log(`stage ${promoted.labels.stage}`);

  // Only what the mask names changes, whatever else others do to the pod meanwhile.
  const update = UpdatePodRequest.fromPartial({
    pod: { metadata: { name, annotations: { note: "from typescript" } } },
    updateMask: ["metadata.annotations"],
  });
  const updated = await answer<UpdatePodResponse>((done) => pods.updatePod(update, done));
  const now = updated.pod?.metadata;
  console.log(`note ${now?.annotations.note}, stage ${now?.labels.stage}`);

  // From the revision that it was created at: nothing is missed in between.
  let running = false;
  for await (const event of watch(pods, created, values.since ? BigInt(values.since) : resourceVersion)) {
    if (event.type === WatchEventType.WATCH_EVENT_TYPE_DELETED) {
      console.log("deleted");
      break;
    }
    const phase = event.pod?.status?.phase;
    if (!phase || running) {
      continue;
    }
    console.log(`phase ${phase}`);
    if (phase === "Running") {
      running = true;
      console.log(`log ${await firstLine(pods, namespace, name)}`);
      console.log(`exec ${await runIn(pods, created, "/bin/busybox", "echo", "hello from inside")}`);
      await answer((done) => pods.deletePod(DeletePodRequest.fromPartial({ namespace, name, uid }), done));
    }
  }
  pods.close();
}

async function firstLine(pods: PodServiceClient, namespace: string, name: string): Promise<string> {
  const request = GetPodLogsRequest.fromPartial({ namespace, name, follow: true });
  const logs = pods.getPodLogs(request, { deadline: Date.now() + PATIENCE });
  // Leaving the loop ends the call.
  for await (const part of logs as AsyncIterable<GetPodLogsResponse>) {
    return Buffer.from(part.data).toString().split("\n")[0];
  }
  throw new Error("the log ended without a line");
}

main().catch((error: ServiceError) => {
  console.error(error.code === undefined ? error : `${status[error.code]}: ${error.details}`);
  process.exit(1);
});
