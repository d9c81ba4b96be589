// Runs test code as kernel code, at the end of a boot on the abstract machine.
import { fail, findCpuModel, type Observer } from "../src/hardware/index.ts";
import { buildKernelImage, type Preset } from "../src/kernel/index.ts";
import { bootKernel } from "../src/residue/index.ts";

export type TraceRecord = readonly [event: number, a: number, b: number, c: number];

export interface Told {
  readonly events: readonly TraceRecord[];
  readonly lines: readonly string[];
  readonly console: string;
}

export interface InKernelOptions {
  readonly commandLine?: string;
  readonly preset?: Preset;
  readonly model?: string;
  readonly cpus?: number;
}

/** An observer that keeps what it hears. */
export function listener(events: TraceRecord[], lines: string[]): Observer {
  return {
    trace: (event, a, b, c) => {
      events.push([event, a, b, c]);
    },
    frameOwner: () => undefined,
    context: () => undefined,
    print: (text) => {
      lines.push(text);
    },
  };
}

/** Runs `body` in the boot CPU's idle task, and returns what it returns and what the kernel told. The command line is `asi=on`. */
export function inKernel<T>(
  body: (events: readonly TraceRecord[]) => T,
  options: InKernelOptions = {},
): { readonly result: T; readonly told: Told } {
  const events: TraceRecord[] = [];
  const lines: string[] = [];
  let result: { readonly value: T } | undefined;
  const image = buildKernelImage({
    preset: options.preset ?? "cordon",
    processes: [],
    puppets: new Map(),
    lateInitcall: () => {
      result = { value: body(events) };
    },
  });
  bootKernel(image, {
    commandLine: options.commandLine ?? "asi=on",
    cpus: options.cpus ?? 1,
    model: findCpuModel(options.model ?? "skx") ?? fail("no such CPU model"),
    observer: listener(events, lines),
  });
  if (result === undefined) fail("the kernel did not come to its late initcalls");
  return { result: result.value, told: { events, lines, console: "" } };
}
