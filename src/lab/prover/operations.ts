// All operations by name, and what a process does before its first.
import { assert, fail } from "../../hardware/index.ts";
import { MAX_VCPUS, MAX_VMS } from "./call-arguments.ts";
import type { Configuration } from "./configuration.ts";
import { DELIVERIES } from "./deliveries.ts";
import { KERNEL_OPERATIONS } from "./kernel-work.ts";
import type { Need, Operation, Part } from "./operation.ts";
import { PROCESS_OPERATIONS, SETUPS } from "./process-operations.ts";
import { createVm, kvmSetup, runVcpu, targetSuffix, vmOperations } from "./vm-operations.ts";

/** A CPU goes on with what it has: a suspended path, a pending interrupt. */
export const CONTINUE = "continue";

const BY_VCPUS = Array.from({ length: MAX_VCPUS }, (_, i) => ({
  ...PROCESS_OPERATIONS,
  ...vmOperations(i + 1),
  ...KERNEL_OPERATIONS,
  ...DELIVERIES,
}));

/** Operations where each VM has `vcpus` vCPUs. */
function operationsBy(vcpus: number): Readonly<Record<string, Operation>> {
  return BY_VCPUS[vcpus - 1] ?? fail(`VMs have 1 to ${MAX_VCPUS} vCPUs, not ${vcpus}`);
}

/** The names that a configuration may give. Those of a first VM and vCPU stand for all of the configuration's. */
export const OPERATIONS: readonly string[] = Object.entries(operationsBy(1))
  .filter(([, operation]) => operation.kind === "delivery" || ((operation.vm ?? 0) === 0 && (operation.vcpu ?? 0) === 0))
  .map(([name]) => name);

/** Operations that are about virtual machines. */
export function isVmOperation(name: string): boolean {
  const operation = operationsBy(1)[name];
  return operation?.kind === "process" && operation.needs.includes("vm");
}

const KEEPS_TRANSLATIONS = /^(getppid.*|sched_yield|sched_setaffinity|KVM_RUN .*|read file|write file|pipe .*|futex .*)$/;

/**
 * Takes nothing out of any page table, so that it is of no consequence which translations are cached. Only a guess that makes spaces small: the
 * machine notices when it is wrong.
 */
export function keepsTranslations(name: string): boolean {
  return Object.hasOwn(DELIVERIES, name) || KEEPS_TRANSLATIONS.test(name);
}

export interface NamedOperation {
  readonly name: string;
  readonly operation: Operation;
}

/** The operations of a configuration, in a fixed order: each for every VM and vCPU that it is possible for. */
export function operationsOf({ operations, vms, vcpus }: Pick<Configuration, "operations" | "vms" | "vcpus">): readonly NamedOperation[] {
  assert(vms <= MAX_VMS, () => `a process has up to ${MAX_VMS} VMs, not ${vms}`);
  const all = operationsBy(Math.max(1, vcpus));
  return operations.flatMap((base): readonly NamedOperation[] => {
    const first = all[base] ?? fail(`no operation ${base}`);
    const found: NamedOperation[] = [{ name: base, operation: first }];
    if (first.kind === "delivery" || first.vm === undefined) return found;
    for (let vm = 0; vm < vms; vm++) {
      for (let vcpu = 0; vcpu < vcpus; vcpu++) {
        const name = base + targetSuffix(vm, vcpu);
        const operation = all[name];
        if ((vm > 0 || vcpu > 0) && operation !== undefined) found.push({ name, operation });
      }
    }
    return found;
  });
}

/** Whether a process is one that 32-bit code could be part of. */
export function needsVdso(operations: readonly NamedOperation[]): boolean {
  return operations.some(({ operation }) => operation.kind === "process" && operation.needs.includes("vdso"));
}

const ORDER: readonly Exclude<Need, "vm" | "vdso">[] = ["region", "shared page", "file", "pipe", "handler"];

/**
 * What a process does first: as much as its operations need. Each VM is made and each vCPU run once, so that the first run is over.
 * `guestCode`: what puts code where guests are to run it, on machines that execute any.
 */
export function setupOf(
  operations: readonly NamedOperation[],
  vms: number,
  vcpus: number,
  guestCode: readonly Part[] = [],
): readonly Part[] {
  const needs = new Set(operations.flatMap(({ operation }) => (operation.kind === "process" ? operation.needs : [])));
  const parts = ORDER.filter((need) => needs.has(need)).flatMap((need) => SETUPS[need]);
  if (!needs.has("vm")) return parts;
  const machines = Array.from({ length: vms }, (_, vm) => [
    ...createVm(vm, vcpus),
    ...Array.from({ length: vcpus }, (_, vcpu) => runVcpu(vm, vcpu)),
  ]).flat();
  return [...parts, ...kvmSetup(vms), ...guestCode, ...machines];
}

/** What the numbers in the codes of events stand for. */
export function operationNames(configuration: Pick<Configuration, "operations" | "vms" | "vcpus">): readonly string[] {
  return [CONTINUE, ...operationsOf(configuration).map(({ name }) => name)];
}
