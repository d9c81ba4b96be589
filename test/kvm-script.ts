// A monitor process on the abstract machine, whose guest leaves as a script says: for tests of KVM from /dev/kvm to the guest and back.
import { EXIT_REASON, fail, findCpuModel, type Observer, type Puppet } from "../src/hardware/index.ts";
import {
  buildKernelImage,
  EXIT_PAGE_FAULT,
  EXIT_VCPU_RUN,
  FLUSH_CONTROL,
  FLUSH_DATA,
  type Preset,
  TRACE_ASI_ENTER,
  TRACE_ASI_ENTER_NOOP,
  TRACE_ASI_EXIT,
  TRACE_FLUSH,
  TRACE_PROCESS_EXIT,
  TRACE_VM_EXIT,
} from "../src/kernel/index.ts";
import { type GuestExit, ResidueMachine, scriptedGuest } from "../src/residue/index.ts";
import { encodeVmmArguments, VMM_PUPPET, type VmmEnding, vmmPuppet } from "../src/vmm/index.ts";

/** A guest image of one page: what its bytes are, the abstract machine never looks at. */
const IMAGE = {
  entry: 0x100000,
  segments: [{ address: 0x100000, bytes: new Uint8Array(64).fill(0xf4), memoryBytes: 4096 }],
  symbols: new Map<string, number>(),
};
const GUEST_BYTES = 2 * 2 ** 20;
/** A run that takes more turns than this never ends. */
const TURNS = 20_000;

/** Exit port of the monitor; the status is AL. */
export const EXIT_PORT = 0xf4;
export const COM1 = 0x3f8;

export interface ScriptedRun {
  readonly endings: readonly VmmEnding[];
  readonly output: string;
  /** Kernel trace. */
  readonly events: readonly (readonly number[])[];
  readonly log: readonly string[];
}

export interface ScriptedRunOptions {
  readonly commandLine?: string;
  readonly preset?: Preset;
  /** Monitors, all on CPU 0; their guests take their exits from the one script in turn. */
  readonly monitors?: number;
  readonly beforeStep?: (machine: ResidueMachine, events: readonly (readonly number[])[]) => void;
  /** Called before each VM entry, with the state that the guest would find. */
  readonly beforeEntry?: (machine: ResidueMachine, cpu: number) => void;
  readonly cpus?: number;
  /** Changes the monitor's function. */
  readonly wrap?: (monitor: Puppet) => Puppet;
}

/** OUT to the exit port with whatever RAX holds: the status is the result of the hypercall before. */
export const exitWithRax: GuestExit = {
  reason: EXIT_REASON.IO_INSTRUCTION,
  qualification: (1 << 6) | (EXIT_PORT << 16),
  instructionLength: 2,
};

export function runScript(exits: readonly GuestExit[], options: ScriptedRunOptions = {}): ScriptedRun {
  const endings: VmmEnding[] = [];
  const events: number[][] = [];
  const log: string[] = [];
  const observer: Observer = {
    trace: (event, a, b, c) => {
      events.push([event, a, b, c]);
    },
    frameOwner: () => undefined,
    context: () => undefined,
    print: (text) => {
      log.push(text);
    },
  };
  const monitors = options.monitors ?? 1;
  const wrap = options.wrap ?? ((monitor: Puppet) => monitor);
  const args = encodeVmmArguments({ image: IMAGE, memoryBytes: GUEST_BYTES, commandLine: "" });
  const image = buildKernelImage({
    preset: options.preset ?? "cordon",
    processes: Array.from({ length: monitors }, () => ({ name: "vmm", puppet: VMM_PUPPET, args })),
    puppets: new Map([[VMM_PUPPET, wrap(vmmPuppet((ending) => endings.push(ending)))]]),
  });
  let output = "";
  const machine = new ResidueMachine({
    model: findCpuModel("skx") ?? fail("no CPU model skx"),
    memoryBytes: 64 * 2 ** 20,
    cpus: options.cpus ?? 1,
    image,
    commandLine: options.commandLine ?? "asi=on",
    observer,
    console: (byte) => {
      output += String.fromCharCode(byte);
    },
  });
  machine.guest = scriptedGuest(exits);
  for (const [id, cpu] of machine.cpus.entries()) {
    cpu.setHook({
      beforeStep: () => {
        options.beforeStep?.(machine, events);
      },
      beforeEntry: (_cpu, kind) => {
        if (kind === "guest") options.beforeEntry?.(machine, id);
      },
    });
  }
  machine.run(() => events.filter(([event]) => event === TRACE_PROCESS_EXIT).length === monitors, TURNS);
  return { endings, output, events, log };
}

export function count(result: ScriptedRun, event: number): number {
  return result.events.filter(([number]) => number === event).length;
}

/** Transitions and flushes, as text. */
export function transitions(result: ScriptedRun): readonly string[] {
  const names = new Map([
    [TRACE_ASI_ENTER, () => "enter"],
    [TRACE_ASI_ENTER_NOOP, () => "enter (there already)"],
    [
      TRACE_ASI_EXIT,
      (reason: number) => (reason === EXIT_VCPU_RUN ? "exit (end of KVM_RUN)" : `exit (${reason === EXIT_PAGE_FAULT ? "fault" : reason})`),
    ],
    [TRACE_FLUSH, (kind: number) => (kind === FLUSH_DATA ? "data flush" : kind === FLUSH_CONTROL ? "control flush" : "?")],
    [TRACE_VM_EXIT, (reason: number) => `VM exit ${reason}`],
  ]);
  return result.events.flatMap(([event, a]) => {
    const name = names.get(event ?? 0);
    return name === undefined ? [] : [name(a ?? 0)];
  });
}
