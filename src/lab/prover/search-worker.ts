// A worker of the search: makes its system, then expands what it is sent.
import { parentPort, workerData } from "node:worker_threads";
import { fail } from "../../hardware/index.ts";
import type { Configuration } from "./configuration.ts";
import { Expander } from "./expander.ts";
import { explorerOf } from "./prove.ts";
import type { WorkerAnswer, WorkerRequest } from "./workers.ts";

const port = parentPort ?? fail("the search worker was not started as a worker");
const expander = new Expander(explorerOf(workerData as Configuration)); // what prove() put there
port.on("message", ({ number, paths }: WorkerRequest) => {
  let answer: WorkerAnswer;
  try {
    answer = { number, expansion: expander.expand(paths) };
  } catch (error) {
    answer = { number, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  port.postMessage(answer);
});
