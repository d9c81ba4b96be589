// A worker of the search: makes its system, then expands what it is sent.
import { parentPort, workerData } from "node:worker_threads";
import { fail } from "../../hardware/index.ts";
import { Expander } from "./expander.ts";
import { explorerOf, type WorkerData } from "./prove.ts";
import type { WorkerAnswer, WorkerBeginning, WorkerRequest } from "./workers.ts";

const port = parentPort ?? fail("the search worker was not started as a worker");
const { configuration, learnt } = workerData as WorkerData; // what prove() put there
const explorer = explorerOf(configuration, learnt);
let expander = new Expander(explorer);
port.on("message", (message: WorkerRequest | WorkerBeginning) => {
  if ("learnt" in message) {
    explorer.beginAgain(message.learnt);
    expander = new Expander(explorer);
    return;
  }
  const { number, paths } = message;
  let answer: WorkerAnswer;
  try {
    answer = { number, expansion: expander.expand(paths) };
  } catch (error) {
    answer = { number, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  port.postMessage(answer);
});
