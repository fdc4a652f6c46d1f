// Creates a pod, watches it until it runs, prints the first line of its log, and deletes it.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { ChannelCredentials, ServiceError, credentials, status } from "@grpc/grpc-js";

import { WatchEventType } from "../generated/clone8s/v1/meta";
import { Container, Pod, PodSpec } from "../generated/clone8s/v1/pod";
import {
  CreatePodRequest,
  CreatePodResponse,
  DeletePodRequest,
  GetPodLogsRequest,
  GetPodLogsResponse,
  PodServiceClient,
  WatchPodsRequest,
  WatchPodsResponse,
} from "../generated/clone8s/v1/pod_service";

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

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      name: { type: "string", default: "hello-typescript" },
      image: { type: "string", default: "clone8s.local/hello:1" },
    },
  });
  const pods = connect();
  const container = Container.fromPartial({
    name: "main",
    image: values.image,
    command: ["/bin/busybox", "sh", "-c", "echo hello from typescript; exec /bin/busybox sleep 1000"],
  });
  const pod = Pod.fromPartial({
    metadata: { name: values.name },
    spec: PodSpec.fromPartial({ containers: [container], terminationGracePeriodSeconds: 1 }),
  });
  const created = (
    await answer<CreatePodResponse>((done) => pods.createPod(CreatePodRequest.fromPartial({ pod }), done))
  ).pod?.metadata;
  if (!created) {
    throw new Error("the API answered without the pod");
  }
  const { namespace, name, uid, resourceVersion } = created;
  console.log(`created ${namespace}/${name}`);

  // From the revision that it was created at: nothing is missed in between.
  const watch = WatchPodsRequest.fromPartial({ namespace, fieldSelector: `metadata.name=${name}`, resourceVersion });
  const events = pods.watchPods(watch, { deadline: Date.now() + PATIENCE });
  for await (const event of events as AsyncIterable<WatchPodsResponse>) {
    if (event.type === WatchEventType.WATCH_EVENT_TYPE_DELETED) {
      console.log("deleted");
      break;
    }
    const phase = event.pod?.status?.phase;
    if (!phase || event.pod?.metadata?.deletionTimestamp) {
      continue;
    }
    console.log(`phase ${phase}`);
    if (phase === "Running") {
      console.log(`log ${await firstLine(pods, namespace, name)}`);
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
