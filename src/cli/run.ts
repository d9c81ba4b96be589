// `cordon run`: a guest on the simulated machine. Standard output is the guest's console and nothing else; the ledger and all words of
// ours go to standard error, so that the guest's output can be piped.
import { basename } from "node:path";
import { CPU_MODELS, DEFAULT_CPU_MODEL, UsageError } from "../hardware/index.ts";
import { type GuestRun, PRESETS, parseGuestImage, runGuest } from "../lab/index.ts";
import { type Arguments, cpuModel, oneOf, readArguments, sizeInBytes, wholeNumber } from "./arguments.ts";
import { checkWritable, readBytes, writeJson } from "./files.ts";
import { ledgerText } from "./ledger-text.ts";
import { type HostArguments, runHostProgram } from "./run-host.ts";
import { runReplay } from "./run-replay.ts";
import { runScenario } from "./run-scenario.ts";

const HELP = `cordon run GUEST.elf [OPTIONS]
cordon run --host PROGRAM.elf ARGUMENTS… [OPTIONS]
cordon run --scenario FILE.yaml [--ledger FILE]
cordon run --replay FILE

Runs a static ELF64 guest under the simulated kernel and KVM. Its console (port 0x3f8, port 0xe9) is standard output; the ledger
follows on standard error. HLT with interrupts off ends the run with status 0, a byte written to port 0xf4 with that status.

  --cpu KEY          CPU model: ${CPU_MODELS.map((model) => model.key).join(", ")} (default ${DEFAULT_CPU_MODEL.key})
  --cmdline "..."    kernel command line of the host, e.g. "asi=off" (default "asi=on")
  --preset NAME      cordon (default); rfc-v2: the series as posted, its faults included; cordon-fast: every option beyond it
  --append "..."     command line of the guest
  --cpus N           logical CPUs of the host, 1 to 8 (default 1)
  --memory SIZE      memory of the guest, 2M to 1024M (default 16M); with --host of the host, 64M to 2048M (default 128M)
  --gear NAME        architectural (default: semantics only, fast) or detailed (caches, predictors, transient execution)
  --limit CYCLES     stops a guest that has not ended by then (default 20000000000)
  --ledger FILE      writes the ledger as JSON (docs/ledger.schema.json)
  --host             the file is a static program (ELF64 or ELF32), run as a process of the host with the arguments behind it: standard
                     output, standard error and exit status are its own; words behind -- are its arguments whatever they look like
  --root FOLDER      with --host: the files of this folder are its file system
  --details          with --host: the ledger and the kernel's log on standard error
  --scenario FILE    several programs and guests on several CPUs, as the file says (docs/scenario.schema.json); their console lines
                     carry their names
  --replay FILE      executes a counterexample of \`cordon check\` with real code in the detailed gear, and says whether it is one there:
                     reproduced (status 1), with what leaks, or not (status 0), and why
  --check            evaluates the safety properties S1 to S10 before every kernel step and every entry (slow; S1 and S2
                     judge caches and predictors, which only the detailed gear has)

Exit status: the guest's; 1 when --check found a violation; 2 for bad input; 3 when the guest crashed (triple fault) or was stopped by --limit.
`;

const OPTIONS = {
  cpu: "string",
  cmdline: "string",
  preset: "string",
  append: "string",
  cpus: "string",
  memory: "string",
  gear: "string",
  limit: "string",
  scenario: "string",
  replay: "string",
  host: "boolean",
  root: "string",
  details: "boolean",
  ledger: "string",
  check: "boolean",
  help: "boolean",
} as const;

/** Of a program: more than its stack would take. */
const MAX_ARGUMENTS = 10_000;
const STATUS_STOPPED = 3;

function ending(run: GuestRun): string {
  switch (run.ending) {
    case "halt":
      return "the guest halted with interrupts off";
    case "exit":
      return `the guest ended with status ${run.status}`;
    case "triple fault":
      return "the guest crashed: triple fault";
    case "limit":
      return `the guest was stopped by --limit after ${run.cycles.toLocaleString("en-US")} cycles`;
    case "error":
      return `the monitor gave up: ${run.reason}`;
  }
}

export async function run(args: readonly string[]): Promise<number> {
  const ours = args.includes("--") ? args.slice(0, args.indexOf("--")) : args;
  const isHost = ours.includes("--host");
  const parsed = readArguments("run", args, OPTIONS, {
    min: ours.some((word) => /^--(help|scenario|replay)/.test(word)) ? 0 : 1,
    max: isHost ? MAX_ARGUMENTS : 1,
    what: isHost ? "a program and its arguments" : "one guest image",
  });
  if (parsed.flag("help")) {
    process.stdout.write(HELP);
    return 0;
  }
  const replay = parsed.text("replay");
  if (replay !== undefined) {
    const others = Object.keys(OPTIONS).filter((name) => name !== "replay" && (parsed.text(name) ?? parsed.flag(name)));
    if (parsed.positionals.length > 0 || others.length > 0)
      throw new UsageError(`run: with --replay nothing else is accepted; the rest stands in ${replay}`);
    return runReplay(replay);
  }
  const scenario = parsed.text("scenario");
  if (scenario !== undefined) {
    const others = Object.keys(OPTIONS).filter(
      (name) => !["scenario", "ledger"].includes(name) && (parsed.text(name) ?? parsed.flag(name)),
    );
    if (parsed.positionals.length > 0 || others.length > 0)
      throw new UsageError(`run: with --scenario only --ledger is accepted; the rest stands in ${scenario}`);
    return runScenario(scenario, parsed.text("ledger"));
  }
  const file = parsed.positionals[0] ?? "";
  if (isHost) return runHostProgram(hostArguments(parsed));
  for (const option of ["root", "details"])
    if (parsed.text(option) !== undefined || parsed.flag(option)) throw new UsageError(`run: --${option} is accepted with --host`);
  const model = cpuModel(parsed.text("cpu"), DEFAULT_CPU_MODEL);
  const memoryBytes = sizeInBytes("memory", parsed.text("memory"), 16 * 2 ** 20, 2 * 2 ** 20, 2 ** 30);
  const options = {
    image: parseGuestImage(readBytes(file), file, memoryBytes),
    name: basename(file),
    model,
    commandLine: parsed.text("cmdline") ?? "asi=on",
    preset: oneOf("preset", parsed.text("preset"), "cordon", PRESETS),
    guestCommandLine: parsed.text("append") ?? "",
    cpus: wholeNumber("cpus", parsed.text("cpus"), 1, 1, 8),
    memoryBytes,
    gear: oneOf("gear", parsed.text("gear"), "architectural", ["architectural", "detailed"]),
    limit: wholeNumber("limit", parsed.text("limit"), 20_000_000_000, 1, Number.MAX_SAFE_INTEGER),
    check: parsed.flag("check"),
    console: (bytes: Uint8Array) => {
      process.stdout.write(bytes);
    },
    log: (line: string) => {
      process.stderr.write(`kernel: ${line}\n`);
    },
  };
  const ledgerFile = parsed.text("ledger");
  if (ledgerFile !== undefined) checkWritable(ledgerFile);

  const result = await runGuest(options);
  process.stderr.write(`cordon: ${ending(result)}\n${ledgerText(result)}`);
  if (ledgerFile !== undefined) writeJson(ledgerFile, result);
  if (result.violations !== null && result.violations.length > 0) return 1;
  if (result.ending === "halt" || result.ending === "exit") return result.status;
  return STATUS_STOPPED;
}

const MIB = 2 ** 20;

function hostArguments(parsed: Arguments): HostArguments {
  const [file = "", ...args] = parsed.positionals;
  if (parsed.text("append") !== undefined) throw new UsageError("run: --append is a guest's; a program's arguments stand behind its name");
  return {
    file,
    args,
    root: parsed.text("root"),
    model: cpuModel(parsed.text("cpu"), DEFAULT_CPU_MODEL),
    preset: oneOf("preset", parsed.text("preset"), "cordon", PRESETS),
    commandLine: parsed.text("cmdline") ?? "asi=on",
    cpus: wholeNumber("cpus", parsed.text("cpus"), 1, 1, 8),
    memoryBytes: sizeInBytes("memory", parsed.text("memory"), 128 * MIB, 64 * MIB, 2048 * MIB),
    gear: oneOf("gear", parsed.text("gear"), "architectural", ["architectural", "detailed"]),
    limit: wholeNumber("limit", parsed.text("limit"), 20_000_000_000, 1, Number.MAX_SAFE_INTEGER),
    check: parsed.flag("check"),
    ledgerFile: parsed.text("ledger"),
    details: parsed.flag("details"),
  };
}
