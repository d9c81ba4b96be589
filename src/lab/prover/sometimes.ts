// The "sometimes" partner of each property: a situation that the property guards must have come up, or its proof is about nothing. Which
// situations a configuration must show follows from what may happen in it.
import type { Occurrence } from "../properties/index.ts";
import type { Configuration } from "./configuration.ts";

type Condition = (configuration: Configuration) => boolean;

const isOn: Condition = ({ commandLine }) => /\basi=on\b/.test(commandLine);
const hasUserDomain: Condition = (c) => isOn(c) && !/\basi_userspace=off\b/.test(c.commandLine);
const does =
  (...names: readonly string[]): Condition =>
  ({ operations }) =>
    operations.some((operation) => names.some((name) => operation === name));
const runsGuests: Condition = ({ operations }) => operations.some((operation) => operation.startsWith("KVM_RUN"));
const isInterrupted: Condition = ({ injections, injectionsPerEvent }) =>
  injectionsPerEvent > 0 && injections.some((kind) => kind.startsWith("nmi") || kind.startsWith("irq"));
const all =
  (...conditions: readonly Condition[]): Condition =>
  (configuration) =>
    conditions.every((condition) => condition(configuration));
/** Frames that hold user data come and go. */
const takesMemory = does("page fault", "fork", "copy on write", "mmap");
const givesMemory = does("munmap", "exit");

/** Something needs what restricted address spaces lack: a call that finds all it needs there never leaves. */
const leaves: Condition = (c) =>
  all(isOn, runsGuests)(c) ||
  (hasUserDomain(c) &&
    (c.injections.some((kind) => kind.endsWith("sensitive")) ||
      does("page fault", "fork", "sensitive nmi", "sensitive interrupt")(c) ||
      (c.processes > c.cpus && does("sched_yield")(c))));

/** What must come up, and where; what is missing here needs more than events (an audit of all tables, a count of all objects). */
const EXPECTED: ReadonlyMap<Occurrence, Condition> = new Map<Occurrence, Condition>([
  ["S1: the restricted kernel ran with its own guest's training", all(isOn, runsGuests)],
  ["S1: the restricted kernel ran with its own process's training", hasUserDomain],
  ["S2: a guest was entered with data in L1D that it may see", all(isOn, runsGuests)],
  ["S2: user code was entered with data in L1D that it may see", hasUserDomain],
  ["S3: a guest was entered", runsGuests],
  ["S3: user code was entered", () => true],
  ["S3: user code was entered in its own domain", hasUserDomain],
  ["S3: user code was entered on user tables of its own", (c) => !isOn(c) && /\bpti=on\b/.test(c.commandLine)],
  ["S4: a step inside the window of enter", leaves],
  ["S4: a step inside the window of exit", leaves],
  ["S4: a step between two domains", all(hasUserDomain, runsGuests)],
  ["S4: a handler nested in such a window", all(leaves, isInterrupted)],
  ["S5: a sensitive frame appeared and was looked for in restricted tables", all(isOn, does("page fault", "fork"))],
  ["S7: a guest was entered after a handler had nested in its critical section", all(isOn, runsGuests, isInterrupted)],
  ["S7: user code was entered after a handler had nested in its critical section", all(hasUserDomain, isInterrupted)],
  ["S8: a range was taken away", does("munmap")],
  ["S9: a frame was freed", all(takesMemory, givesMemory)],
  ["S10: a domain owed no control flush while a predictor held training", (c) => hasUserDomain(c) || all(isOn, runsGuests)(c)],
  ["S10: a domain owed no data flush while L1D held data", (c) => hasUserDomain(c) || all(isOn, runsGuests)(c)],
]);

/** The situations that must come up when the whole space of a configuration is explored, of the properties that it judges. */
export function expectedOccurrences(configuration: Configuration): readonly Occurrence[] {
  const { properties } = configuration;
  return [...EXPECTED].flatMap(([occurrence, condition]) =>
    properties.some((property) => occurrence.startsWith(`${property}:`)) && condition(configuration) ? [occurrence] : [],
  );
}

/** Those that never came up. */
export function missingOccurrences(configuration: Configuration, occurred: Iterable<string>): readonly Occurrence[] {
  const seen = new Set(occurred);
  return expectedOccurrences(configuration).filter((occurrence) => !seen.has(occurrence));
}
