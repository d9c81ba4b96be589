// What can be put before a step of an event. `sensitive`: the handler reads memory that restricted address spaces lack.
export const INJECTION_KINDS = [
  "nmi",
  "nmi sensitive",
  "irq",
  "irq sensitive",
  "timer",
  "machine check",
  /** The path is suspended: other CPUs may have their turn before it goes on. */
  "switch",
  /** The n-th attempt of the event to allocate memory fails; its "step" is n. */
  "failure",
] as const;

export type InjectionKind = (typeof INJECTION_KINDS)[number];

/** Kinds that are delivered to the CPU as an event of its own. */
export const DELIVERED_KINDS: readonly InjectionKind[] = ["nmi", "nmi sensitive", "irq", "irq sensitive", "timer", "machine check"];
