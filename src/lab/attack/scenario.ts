// The scenario of both attacks: one logical CPU, a victim process that uses its secret and yields, and a monitor whose guest attacks.
// The attacker is told what is published about a host (where the secret lies, where the attacked hypercall keeps its tables) and
// decides the rest from times that it measures. Who is right is judged here, from the secret itself.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { KVM_HC_CORDON_TABLE } from "../../abi/index.ts";
import {
  assert,
  type CpuModel,
  cpuId,
  cr3Root,
  EXIT_REASON,
  hasBug,
  hex,
  type PhysAddr,
  physAddr,
  type VirtAddr,
} from "../../hardware/index.ts";
import {
  EXIT_CONTEXT_SWITCH,
  FLUSH_CONTROL,
  FLUSH_DATA,
  hcTable,
  hcTableSize,
  IRQ_WORK_VECTOR,
  type Preset,
  type ProcessConfig,
  TRACE_ASI_EXIT,
  TRACE_IRQ,
  TRACE_SYSCALL,
  TRACE_VM_ENTRY,
  TRACE_VM_EXIT,
  va,
} from "../../kernel/index.ts";
import { peekTranslate } from "../../machine/index.ts";
import { encodeVictimArguments, encodeVmmArguments, parseElf, VICTIM_PUPPET, VICTIM_SECRET, VMM_PUPPET } from "../../vmm/index.ts";
import { Random } from "../random.ts";
import { HOST_MEMORY_BYTES, Simulation, type SimulationOptions } from "../simulation.ts";
import { type Control, type ControlName, makeControl } from "./controls.ts";

export const ATTACKS = ["l1tf", "spectre-v1"] as const;
export type AttackName = (typeof ATTACKS)[number];

export interface AttackOptions {
  readonly attack: AttackName;
  readonly asi: boolean;
  readonly model: CpuModel;
  readonly preset: Preset;
  /** Chooses the secret. */
  readonly seed: number;
  readonly control: ControlName;
  /** Simulated cycles after which the attack is stopped. */
  readonly limit: number;
}

export type Defence = "nothing" | "not mapped" | "flushed" | "CPU not affected";

/** What came of an attack. */
export interface AttackResult {
  readonly attack: AttackName;
  readonly cpu: string;
  readonly asi: "on" | "off";
  readonly control: ControlName;
  /** Bytes that the attacker reported and that are right. */
  readonly recovered: number;
  readonly length: number;
  /** What stopped it, by ground truth: see `judge`. */
  readonly stoppedBy: Defence;
  readonly dataFlushes: number;
  readonly controlFlushes: number;
  /** Transitions into and out of the restricted address space. */
  readonly enters: number;
  readonly exits: number;
  readonly cycles: number;
  /** VM exits, and at how many of them the secret's line was in this core's L1D: it was there when the guest ran. */
  readonly vmExits: number;
  readonly exitsWithSecretInL1d: number;
  /**
   * Hypercalls of the attacker, and how many of them left the restricted address space before the guest ran again: not counting that the
   * scheduler gave the CPU away after the hypercall was handled.
   */
  readonly hypercalls: number;
  readonly hypercallsThatExited: number;
  /** Whether the secret's direct-map address was mapped in the address space in which the host handled the attacker's exits. */
  readonly isSecretMapped: boolean;
  /** The attacker's last line. */
  readonly report: string;
}

export const SECRET_BYTES = 32;
/** The attacks' guests want room for eviction sets. */
const GUEST_MEMORY_BYTES = 16 * 2 ** 20;
const BOOT_CPU = cpuId(0);
/** Runs per byte of the published selftest. */
const SELFTEST_ROUNDS = 60;
/** Cycles between two loads by the selftest's module: a round of the attacker takes less. */
const MODULE_PERIOD = 900_000;
const VICTIM_PID = 1;
const ATTACKER_PID = 2;
/** Longer than any command line of an attack, which is padded to it: the layout of host memory must not depend on it. */
const COMMAND_LINE_BYTES = 256;

function guestFile(attack: AttackName): Uint8Array {
  return readFileSync(fileURLToPath(new URL(`../../../../guests/built/attack-${attack}.elf`, import.meta.url)));
}

/** The secret of a seed. */
export function secretOf(seed: number): Uint8Array {
  return new Random(seed).bytes(SECRET_BYTES);
}

function processes(options: AttackOptions, secret: Uint8Array, commandLine: string, victimCpu: number): readonly ProcessConfig[] {
  const image = parseElf(guestFile(options.attack), `attack-${options.attack}.elf`, GUEST_MEMORY_BYTES);
  const args = { image, memoryBytes: GUEST_MEMORY_BYTES, commandLine: commandLine.padEnd(COMMAND_LINE_BYTES) };
  return [
    { name: "victim", puppet: VICTIM_PUPPET, args: encodeVictimArguments(secret, 0), cpu: victimCpu },
    { name: "vmm", puppet: VMM_PUPPET, args: encodeVmmArguments(args) },
  ];
}

function simulate(
  options: AttackOptions,
  secret: Uint8Array,
  commandLine: string,
  control: Control,
  more: Partial<SimulationOptions>,
): Simulation {
  return new Simulation({
    model: options.model,
    cpus: control.isOnOtherCore === true ? 2 : 1,
    gear: "detailed",
    memoryBytes: HOST_MEMORY_BYTES + GUEST_MEMORY_BYTES,
    // No other mitigation: the L1D flush of KVM itself is off.
    commandLine: `asi=${options.asi ? "on" : "off"} mitigations=off kvm-intel.vmentry_l1d_flush=never`,
    preset: options.preset,
    processes: processes(options, secret, commandLine, control.isOnOtherCore === true ? 1 : 0),
    ...(control.lateInitcall === undefined ? {} : { lateInitcall: control.lateInitcall }),
    ...(control.hooks === undefined ? {} : { hooks: control.hooks }),
    ...more,
  });
}

interface Places {
  /** Host-physical address of the victim's secret. */
  readonly secret: PhysAddr;
  /** Host-physical address that the attack aims at. */
  readonly target: PhysAddr;
}

/** Finds what is published about the host: boots the same host and looks when the victim has used its secret. */
function reconnoitre(options: AttackOptions, secret: Uint8Array, content: Uint8Array): Places {
  let found: PhysAddr | undefined;
  const control = makeControl(options.control, undefined, content);
  const victimCpu = control.isOnOtherCore === true ? cpuId(1) : BOOT_CPU;
  const simulation = simulate(options, secret, "", control, {
    gear: "architectural",
    watch: (event) => {
      const isVictims = event === TRACE_SYSCALL && found === undefined && simulation.currentPid === VICTIM_PID;
      const at = isVictims ? peek(simulation, VICTIM_SECRET, victimCpu) : undefined;
      if (at === undefined) return;
      found = physAddr(at);
      simulation.machine.stop({ kind: "limit" });
    },
  });
  simulation.machine.run(options.limit);
  assert(found !== undefined, () => "the victim did not get to use its secret");
  return { secret: found, target: control.target?.() ?? found };
}

/** Translates in the address space that the CPU is in: the victim's, while it makes a system call after it has used its secret. */
function peek(simulation: Simulation, address: number, cpu = BOOT_CPU): number | undefined {
  return peekTranslate(simulation.machine.memory, cr3Root(simulation.machine.peekCr3(cpu)), address);
}

function attackerCommandLine(attack: AttackName, target: PhysAddr, targetVirtual: VirtAddr, rounds: number): string {
  switch (attack) {
    case "l1tf":
      return `secret=${hex(target)} length=${SECRET_BYTES}${rounds === 0 ? "" : ` rounds=${rounds}`}`;
    case "spectre-v1":
      return `target=${hex(targetVirtual)} table=${hex(hcTable)} size=${hex(hcTableSize)} nr=${KVM_HC_CORDON_TABLE} length=${SECRET_BYTES}`;
  }
}

/** Runs one attack to its end. */
export function runAttack(options: AttackOptions): AttackResult {
  const secret = secretOf(options.seed);
  const otherContent = secretOf(options.seed + 1);
  const places = reconnoitre(options, secret, otherContent);
  const { target } = places;
  const expected = target === places.secret ? secret : otherContent;
  const control = makeControl(options.control, places.secret, otherContent);
  let console = "";
  let exits = 0;
  let hotExits = 0;
  let isMapped = false;
  let hypercalls = 0;
  let hypercallsThatExited = 0;
  let isInHypercall = false;
  let isInterruptDue = control.wantsInterrupt;
  const rounds = control.isOnOtherCore === true ? SELFTEST_ROUNDS : 0;
  const simulation = simulate(options, secret, attackerCommandLine(options.attack, target, va(target), rounds), control, {
    console: (byte) => {
      console += String.fromCharCode(byte);
    },
    watch: (event, reason) => {
      if (event === TRACE_VM_ENTRY) isInHypercall = false;
      else if (event === TRACE_ASI_EXIT && isInHypercall && reason !== EXIT_CONTEXT_SWITCH) {
        isInHypercall = false;
        hypercallsThatExited++;
      }
      if (isInterruptDue && event === TRACE_SYSCALL && peek(simulation, VICTIM_SECRET) !== undefined) {
        isInterruptDue = false;
        simulation.machine.sendInterrupt({ id: 0, now: simulation.machine.now }, 0, IRQ_WORK_VECTOR, false);
      }
      if (control.isOnOtherCore === true && (event === TRACE_IRQ ? reason === IRQ_WORK_VECTOR : exits === 0 && event === TRACE_VM_EXIT)) {
        simulation.machine.sendInterrupt({ id: 0, now: simulation.machine.now + MODULE_PERIOD }, 0, IRQ_WORK_VECTOR, false);
      }
      if (event !== TRACE_VM_EXIT) return;
      exits++;
      isInHypercall = reason === EXIT_REASON.VMCALL;
      if (isInHypercall) hypercalls++;
      if (simulation.machine.isInL1d(BOOT_CPU, target)) hotExits++;
      if (peek(simulation, va(target)) !== undefined) isMapped = true;
    },
  });
  simulation.runUntilExit([ATTACKER_PID], options.limit);
  const report = console.trim().split("\n").at(-1) ?? "";
  const recovered = rightBytes(report, expected);
  const ledger = simulation.ledger.report();
  return {
    attack: options.attack,
    cpu: options.model.key,
    asi: options.asi ? "on" : "off",
    control: options.control,
    recovered,
    length: SECRET_BYTES,
    stoppedBy: judge(options, recovered, isMapped, hotExits),
    dataFlushes: simulation.ledger.flushCount(FLUSH_DATA),
    controlFlushes: simulation.ledger.flushCount(FLUSH_CONTROL),
    enters: ledger.enters.switched,
    exits: simulation.ledger.exitCount,
    cycles: simulation.machine.now,
    vmExits: exits,
    exitsWithSecretInL1d: hotExits,
    hypercalls,
    hypercallsThatExited,
    isSecretMapped: isMapped,
    report,
  };
}

/** Bytes of the attacker's report that are the secret's, in place. */
function rightBytes(report: string, expected: Uint8Array): number {
  const listed = /^recovered \d+ of \d+:((?: (?:[0-9a-f]{2}|\?\?))*)$/.exec(report)?.[1] ?? "";
  const bytes = listed.trim().split(" ");
  return bytes.filter((text, index) => text !== "??" && Number.parseInt(text, 16) === expected[index]).length;
}

/**
 * What stopped an attack, from what the machine really held, not from the kernel's own account: L1TF needs a line of the secret in L1D
 * when the guest runs, Spectre v1 needs the secret mapped where the host handles the guest's exits.
 */
function judge(options: AttackOptions, recovered: number, isMapped: boolean, hotExits: number): Defence {
  if (recovered === SECRET_BYTES) return "nothing";
  if (options.attack === "l1tf") {
    if (!hasBug(options.model, "L1TF")) return "CPU not affected";
    return hotExits === 0 ? "flushed" : "nothing";
  }
  return isMapped ? "nothing" : "not mapped";
}
