// Expanders on other cores: each worker has a system of its own, made from the same configuration.
import { Worker } from "node:worker_threads";
import { fail } from "../../hardware/index.ts";
import type { EventCode } from "./event-code.ts";
import type { Expansion } from "./expander.ts";
import type { Learnt } from "./footprint.ts";
import type { Expanders } from "./search.ts";

/** What a worker is sent: states to expand, which it answers, or what is known of footprints when another search begins. */
export interface WorkerRequest {
  readonly number: number;
  readonly paths: readonly (readonly EventCode[])[];
}
export interface WorkerBeginning {
  readonly learnt: Learnt;
}

export interface WorkerAnswer {
  readonly number: number;
  /** Why it could not: an error of the prover itself. */
  readonly error?: string;
  readonly expansion?: Expansion;
}

interface Waiting {
  resolve(expansion: Expansion): void;
  reject(error: Error): void;
}

export class Workers implements Expanders {
  readonly width: number;
  private readonly workers: readonly Worker[];
  private readonly waiting = new Map<number, Waiting>();
  /** Requests that no worker has begun, and workers that have nothing to do. */
  private readonly queue: WorkerRequest[] = [];
  private readonly idle: Worker[] = [];
  private numbered = 0;

  /** `script` makes its system from `data`. */
  constructor(count: number, script: URL, data: unknown) {
    this.width = count;
    this.workers = Array.from({ length: count }, () => {
      const worker = new Worker(script, { workerData: data });
      worker.on("message", (answer: WorkerAnswer) => this.answered(worker, answer));
      worker.on("error", (error) => this.failed(error instanceof Error ? error : new Error(String(error))));
      this.idle.push(worker);
      return worker;
    });
  }

  expand(paths: readonly (readonly EventCode[])[]): Promise<Expansion> {
    return new Promise((resolve, reject) => {
      const number = this.numbered++;
      this.waiting.set(number, { resolve, reject });
      this.queue.push({ number, paths });
      this.handOut();
    });
  }

  /** Another search begins. Not while anything is expanded. */
  beginAgain(learnt: Learnt): void {
    const beginning: WorkerBeginning = { learnt };
    for (const worker of this.workers) worker.postMessage(beginning);
  }

  /** Ends the workers. */
  async close(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.terminate()));
  }

  private handOut(): void {
    while (this.queue.length > 0 && this.idle.length > 0) {
      const worker = this.idle.shift() ?? fail("no worker");
      worker.postMessage(this.queue.shift());
    }
  }

  private answered(worker: Worker, { number, expansion, error }: WorkerAnswer): void {
    const waiting = this.waiting.get(number) ?? fail(`an answer that nobody waits for: ${number}`);
    this.waiting.delete(number);
    this.idle.push(worker);
    this.handOut();
    if (expansion === undefined) waiting.reject(new Error(error ?? "a worker answered nothing"));
    else waiting.resolve(expansion);
  }

  private failed(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
